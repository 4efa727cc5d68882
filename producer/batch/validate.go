package batch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Summary is what [Validate] has found.
type Summary struct {
	// Lines are those that are not blank; Valid and Invalid add up to them.
	Lines   int64 `json:"lines"`
	Valid   int64 `json:"valid"`
	Invalid int64 `json:"invalid"`
	Bytes   int64 `json:"bytes"`
	// SHA256 is the digest of the whole file, in hexadecimal digits.
	SHA256 string `json:"sha256"`
	// Endpoint is the one that the valid lines are for.
	Endpoint schemas.Endpoint `json:"endpoint,omitempty"`
	// Models are the lines without a fault of their own, by model.
	Models map[string]int64 `json:"models"`

	// repeated are the lines whose custom_id an earlier line has.
	repeated bitmap
}

// Validate reads a whole input and calls report with every fault: those of single lines in their order,
// then the lines that repeat a custom_id, in no order. An error of report ends it, as does one of reading.
// It needs no more memory for a longer file but for one bit for each line; very many custom_ids are sorted
// in a temporary file.
func Validate(ctx context.Context, r io.Reader, rules Rules, report func(*LineError) error) (Summary, error) {
	return validate(ctx, r, rules, seenInMemory, report)
}

func validate(ctx context.Context, r io.Reader, rules Rules, most int, report func(*LineError) error) (s Summary, err error) {
	digest := sha256.New()
	check := newChecker(rules)
	in := newLines(io.TeeReader(r, digest), check.rules.MaxLine)
	s.Models = make(map[string]int64)
	ids := newDuplicates(most)
	defer func() { err = errors.Join(err, ids.close()) }()
	for ctx.Err() == nil {
		raw, n, fault, err := in.next()
		if errors.Is(err, io.EOF) {
			return s, s.conclude(in, check, digest, ids, report)
		}
		if err != nil {
			return s, err
		}
		s.Lines++
		var x *item
		if fault == nil {
			x, fault = check.check(raw, n)
		}
		if fault != nil {
			s.Invalid++
			if err := report(fault); err != nil {
				return s, err
			}
			continue
		}
		s.Valid++
		s.Models[x.model]++
		if err := ids.add(x.customID, n); err != nil {
			return s, err
		}
	}
	return s, context.Cause(ctx)
}

func (s *Summary) conclude(in *lines, check *checker, digest hash.Hash, ids *duplicates, report func(*LineError) error) error {
	s.Bytes, s.SHA256, s.Endpoint = in.size, hex.EncodeToString(digest.Sum(nil)), check.rules.Endpoint
	return ids.find(func(line, first int64) error {
		s.Valid--
		s.Invalid++
		s.repeated.add(line)
		return report(repeats(line, "", first))
	})
}

// repeats is the fault of a line whose custom_id an earlier line has. Which one is not always known.
func repeats(line int64, customID string, first int64) *LineError {
	if first > 0 {
		return newFault(line, customID, invalid("custom_id", "is that of line %d; want one of its own for each line", first))
	}
	return newFault(line, customID, invalid("custom_id", "is that of an earlier line; want one of its own for each line"))
}
