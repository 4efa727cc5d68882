//go:build !unix

package embedded

import (
	"fmt"
	"math"
	"os"
)

// lock checks that the directory can be written. Other processes are not kept out on this system.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("its data cannot be written: %w", err)
	}
	return func() { _ = f.Close() }, nil
}

// diskFree is not known on this system.
func diskFree(string) (int64, error) { return math.MaxInt64 / 2, nil }
