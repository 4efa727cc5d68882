//go:build !unix

package batch

import "os"

// lockFile does nothing where there is no flock: two runs with one output are the user's to avoid.
func lockFile(*os.File) error { return nil }
