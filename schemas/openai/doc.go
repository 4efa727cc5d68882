// Package openai holds the OpenAI wire types that hxp reads: pure data, no I/O.
//
// hxp forwards bodies and choices byte for byte, so these are views: [ParseChunk] and
// [ParseChoices] find what a worker or a client needs in a streamed chunk without decoding the
// rest, and [Splice] replaces top-level fields of a request and leaves every other byte as it was.
//
// All of them read any valid JSON: fields in any order, unknown fields, white space, escapes. Field
// names are compared exactly, as the engine does, not regardless of case as encoding/json does. Of
// fields with the same name the last one counts. null is the same as absent.
//
// # Lifetime
//
// Byte slices of a [Choice] and a [Chunk] point into the text that was parsed, or into buffers of
// the Chunk that the next [ParseChunk] overwrites. Copy what is kept.
package openai
