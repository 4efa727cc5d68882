// Package jsonscan walks over JSON text without building values: forward only, without
// allocating, and by exactly the grammar that encoding/json accepts, its nesting limit included.
//
// A reader opens an object or an array and asks for its members or elements one by one; each is
// either entered, read as a string or an integer, or skipped. What is skipped is checked too, so a
// text that was read to its end is valid.
package jsonscan
