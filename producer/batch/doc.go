// Package batch is offline generation.
package batch
