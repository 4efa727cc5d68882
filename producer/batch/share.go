package batch

import (
	"cmp"
	"math"
	"slices"
)

// shares decides whose line is next. Tenants share what is admitted by weight, in tokens: the one that has had
// the least is next. Of one tenant's batches the one with the highest priority is next, and of those the oldest.
//
// It is start-time fair queueing: a tenant's clock advances by the tokens of its lines over its weight, and a tenant
// that comes back is at most burst behind the others, so that what it did not use while it was away does not
// shut them out, and a few lines of it go first.
type shares struct {
	tenants map[string]*share // those without a batch too
	active  []*share
	weight  func(tenant string) float64
	burst   float64
	clock   float64
}

// share is one tenant.
type share struct {
	weight float64
	used   float64 // its clock
	// reserved is the part of used that is estimated, of lines that have not ended.
	reserved float64
	works    []*work
}

func newShares(weight func(string) float64, burst float64) *shares {
	return &shares{tenants: make(map[string]*share), weight: weight, burst: burst}
}

// maxIdleShares is how many tenants without a batch are remembered.
const maxIdleShares = 10_000

func (s *shares) join(w *work) {
	t := s.tenants[w.tenant]
	if t == nil {
		if len(s.tenants) >= maxIdleShares {
			s.forget()
		}
		t = &share{}
		s.tenants[w.tenant] = t
	}
	if t.weight = 1; s.weight != nil {
		if weight := s.weight(w.tenant); weight > 0 {
			t.weight = weight
		}
	}
	if len(t.works) == 0 {
		t.used = max(t.used, s.now()-s.burst/t.weight)
		s.active = append(s.active, t)
	}
	t.works = append(t.works, w)
	t.sort()
}

// sort orders a tenant's batches anew.
func (s *shares) sort(tenant string) {
	if t := s.tenants[tenant]; t != nil {
		t.sort()
	}
}

func (t *share) sort() {
	slices.SortStableFunc(t.works, func(a, b *work) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(a.order, b.order), cmp.Compare(a.batch, b.batch))
	})
}

func (s *shares) leave(w *work) {
	if t := s.tenants[w.tenant]; t != nil {
		t.works = slices.DeleteFunc(t.works, func(o *work) bool { return o == w })
		if len(t.works) == 0 {
			s.now()
			s.active = slices.DeleteFunc(s.active, func(o *share) bool { return o == t })
		}
	}
}

// forget drops the tenants without a batch: those that are behind lose nothing by it.
func (s *shares) forget() {
	for name, t := range s.tenants {
		if len(t.works) == 0 {
			delete(s.tenants, name)
		}
	}
}

// next takes the line that is next out of its batch, among those whose model has room. nil if there is none.
func (s *shares) next(room func(model string) bool) (*work, *item) {
	var best *share
	var from *work
	var model string
	for _, t := range s.active {
		if best != nil && t.used >= best.used {
			continue
		}
		if w, m := t.candidate(room); w != nil {
			best, from, model = t, w, m
		}
	}
	if best == nil {
		return nil, nil
	}
	x := from.pop(model)
	best.used += float64(x.cost) / best.weight
	best.reserved += float64(x.cost) / best.weight
	return from, x
}

// candidate is the tenant's batch whose turn it is, and a model that it has a line for.
func (t *share) candidate(room func(string) bool) (*work, string) {
	for _, w := range t.works {
		if w.sink.full() {
			continue
		}
		for _, m := range w.models {
			if len(w.ready[m]) > 0 && room(m) {
				return w, m
			}
		}
	}
	return nil, ""
}

// settle puts what a line really took in the place of its estimate.
func (s *shares) settle(tenant string, x *item, tokens int64) {
	if t := s.tenants[tenant]; t != nil {
		t.used += float64(tokens-x.cost) / t.weight
		t.reserved -= float64(x.cost) / t.weight
	}
}

// now is how far the tenants have come that share: as far as the last of them, by what is certain.
func (s *shares) now() float64 {
	if len(s.active) == 0 {
		return s.clock
	}
	last := math.Inf(1)
	for _, t := range s.active {
		last = min(last, t.used-t.reserved)
	}
	s.clock = max(s.clock, last)
	return s.clock
}
