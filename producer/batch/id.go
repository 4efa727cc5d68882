package batch

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// jobs is the namespace of the ids of lines.
var jobs = uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://hxp.dev/batch/line"))

// NewID returns the id of a new batch, a subject token.
func NewID() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make the id of a batch: %w", err)
	}
	return "batch_" + strings.ReplaceAll(id.String(), "-", ""), nil
}

// JobID is the id of the job that a line of a batch becomes: the same whoever submits it, and whenever.
// It depends on the line's bytes as well, so that a file that was changed between two runs is not
// answered from what it was. A line that is retried after it failed is another job in each round.
func JobID(batch string, line int64, round int, raw []byte) string {
	name := fmt.Appendf(make([]byte, 0, len(raw)+96), "%s/%d/%d/", batch, line, round)
	return uuid.NewSHA1(jobs, append(name, raw...)).String()
}

// A request id is what the output form calls the id of a line's record. It tells the batch, the line, the
// round and the outcome, so that a file of records says by itself which lines it has.
const (
	requestPrefix = "batch_req_"
	tagDigits     = 8
	lineDigits    = 10
	roundDigits   = 3
	requestLen    = len(requestPrefix) + tagDigits + lineDigits + roundDigits + 1
	// maxLines and maxRounds are what the digits can tell.
	maxLines  = int64(1)<<(4*lineDigits) - 1
	maxRounds = 1<<(4*roundDigits) - 1
)

// tag stands for a batch in the ids of its records.
func tag(batch string) string {
	sum := sha256.Sum256([]byte(batch))
	return hex.EncodeToString(sum[:tagDigits/2])
}

func requestID(tag string, line int64, round int, failed bool) string {
	outcome := 0
	if failed {
		outcome = 1
	}
	return fmt.Sprintf("%s%s%0*x%0*x%x", requestPrefix, tag, lineDigits, line, roundDigits, round, outcome)
}

// mark is what a request id tells.
type mark struct {
	tag    string
	line   int64
	round  int
	failed bool
}

// parseRequestID takes an id made by requestID apart.
func parseRequestID(id string) (m mark, ok bool) {
	if len(id) != requestLen || !strings.HasPrefix(id, requestPrefix) {
		return m, false
	}
	rest := id[len(requestPrefix):]
	m.tag, rest = rest[:tagDigits], rest[tagDigits:]
	line, err := strconv.ParseInt(rest[:lineDigits], 16, 64)
	if err != nil || line < 1 {
		return m, false
	}
	round, err := strconv.ParseUint(rest[lineDigits:lineDigits+roundDigits], 16, 32)
	if err != nil {
		return m, false
	}
	m.line, m.round = line, int(round)
	switch rest[len(rest)-1] {
	case '0':
	case '1':
		m.failed = true
	default:
		return m, false
	}
	return m, true
}
