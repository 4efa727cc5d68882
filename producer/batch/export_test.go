package batch

import "io"

// ValidateWithin is Validate with so many custom_ids in memory.
var ValidateWithin = validate

// ScanRecords is how a file of records is read.
func ScanRecords(r io.Reader, found func(line int64, failed bool)) (whole int64, err error) {
	return scanRecords(r, func(m mark, _, _ int64) error {
		found(m.line, m.failed)
		return nil
	})
}

// RequestID is the id of a record.
func RequestID(batch string, line int64, round int, failed bool) string {
	return requestID(tag(batch), line, round, failed)
}

// WholeLines is how many bytes of records go into one message.
var WholeLines = wholeLines

// MaxIdleShares is how many tenants without a batch are remembered.
const MaxIdleShares = maxIdleShares

// Shares decides whose line is next.
type Shares struct{ s *shares }

// NewShares has every tenant weigh the same.
func NewShares() Shares { return Shares{newShares(nil, 10)} }

// Visit has a tenant come, take n lines and go.
func (s Shares) Visit(tenant string, n int) {
	w := &work{tenant: tenant, sink: &files{}, ready: make(map[string][]*item)}
	for range n {
		w.queue([]*item{{model: "m", cost: 1}}, false)
	}
	s.s.join(w)
	for range n {
		s.s.next(func(string) bool { return true })
	}
	s.s.leave(w)
}

// Known is how many tenants are remembered.
func (s Shares) Known() int { return len(s.s.tenants) }
