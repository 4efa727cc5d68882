package app

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Range is a pair of bounds, both included.
type Range [2]float64

// IntRange is a pair of whole bounds, both included.
type IntRange [2]int

// Bytes is a size. In YAML it is a number of bytes, or a number with KiB, MiB or GiB.
type Bytes int64

var units = []struct {
	name string
	size int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// ParseBytes reads a size such as "512MiB" or "1048576".
func ParseBytes(s string) (Bytes, error) {
	number, size := strings.TrimSpace(s), int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, size = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(n) {
		return 0, fmt.Errorf("%q is not a size; want a number of bytes, or one with KiB, MiB or GiB", s)
	}
	if n *= float64(size); math.Abs(n) >= math.MaxInt64 || n != math.Trunc(n) {
		return 0, fmt.Errorf("%q is not a whole number of bytes below 8 EiB", s)
	}
	return Bytes(n), nil
}

// String writes b in the largest unit that divides it.
func (b Bytes) String() string {
	for _, u := range units[:3] {
		if b != 0 && int64(b)%u.size == 0 {
			return strconv.FormatInt(int64(b)/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}
