package batch

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

// validations is how many inputs are validated at once.
const validations = 2

// session is a coordinator at work, from when it took the lock.
type session struct {
	*Coordinator
	engine     *engine
	validating chan struct{}

	mu      sync.Mutex
	known   map[string]*queue.StoredBatch // batches that are not over, by key
	next    uint64                        // where to read states on
	tended  map[string]bool               // batches that somebody looks after
	clients map[string]*producer.Client   // by tenant
	fault   string
	tending sync.WaitGroup
}

// run looks after all batches until ctx ends.
func (s *session) run(ctx context.Context) {
	s.clients = make(map[string]*producer.Client)
	var engine sync.WaitGroup
	engine.Go(func() {
		if err := s.engine.run(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn().Err(err).Msg("the coordinator cannot work")
		}
	})
	tick := time.NewTicker(s.cfg.Interval)
	defer tick.Stop()
	for ctx.Err() == nil {
		s.look(ctx)
		select {
		case <-ctx.Done():
		case <-s.engine.over:
			// It could not listen: a connection that is closed. Whoever owns that ends ctx too.
			<-ctx.Done()
		case <-tick.C:
		}
	}
	s.tending.Wait()
	engine.Wait()
	for _, client := range s.clients {
		_ = client.Close() // has no subscriptions
	}
	s.active.Set(0)
}

// look reads what has changed, and begins with the batches whose turn it is.
func (s *session) look(ctx context.Context) {
	list, next, err := queue.Batches(ctx, s.js, "*", s.next)
	switch {
	case ctx.Err() != nil:
		return
	case err == nil:
		s.fault = ""
	case err.Error() != s.fault:
		s.fault = err.Error()
		s.log.Warn().Err(err).Msg("not all batches could be read")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = next
	for _, b := range list {
		s.learn(b)
	}
	for _, key := range s.turns() {
		s.tended[key] = true
		b := s.known[key]
		s.tending.Go(func() { s.tend(ctx, key, b) })
	}
	s.active.Set(float64(len(s.tended)))
}

// learn notes a state, if it is a newer one.
func (s *session) learn(b *queue.StoredBatch) {
	key := schemas.BatchKey(b.Tenant, b.ID)
	if have := s.known[key]; have != nil && have.Revision >= b.Revision {
		return
	}
	if b.Status.Terminal() {
		delete(s.known, key)
		return
	}
	s.known[key] = b
}

// turns are the batches to begin with: so many of each tenant that all of them have some, those first whose
// priority is higher or that are older.
func (s *session) turns() (keys []string) {
	byTenant := make(map[string][]*queue.StoredBatch)
	for _, b := range s.known {
		byTenant[b.Tenant] = append(byTenant[b.Tenant], b)
	}
	free := s.cfg.MaxActive - len(s.tended)
	for rank := 0; free > 0 && len(byTenant) > 0; rank++ {
		var row []*queue.StoredBatch
		for tenant, list := range byTenant {
			if rank == 0 {
				slices.SortFunc(list, func(a, b *queue.StoredBatch) int {
					return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.CreatedAt, b.CreatedAt), cmp.Compare(a.ID, b.ID))
				})
			}
			if rank >= len(list) {
				delete(byTenant, tenant)
				continue
			}
			row = append(row, list[rank])
		}
		slices.SortFunc(row, func(a, b *queue.StoredBatch) int { return cmp.Compare(a.ID, b.ID) }) // ids begin with their time
		for _, b := range row {
			if key := schemas.BatchKey(b.Tenant, b.ID); free > 0 && !s.tended[key] {
				keys = append(keys, key)
				free--
			}
		}
	}
	return keys
}

// state is the newest known state of a batch; nil once it is over.
func (s *session) state(key string) *queue.StoredBatch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[key]
}

// client is the one client of a tenant.
func (s *session) client(tenant string) (*producer.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[tenant]; c != nil {
		return c, nil
	}
	c, err := producer.New(s.js.Conn(), producer.Config{
		Tenant: tenant, Name: schemas.BatchClient, Domain: s.js.Options().Domain, APIPrefix: apiPrefix(s.js), MaxBodyBytes: s.cfg.MaxBody,
	})
	if err == nil {
		s.clients[tenant] = c
	}
	return c, err
}

// change changes a batch and notes its new state.
func (s *session) change(ctx context.Context, b *queue.StoredBatch, f func(*schemas.BatchState) error) (*queue.StoredBatch, error) {
	out, err := change(ctx, s.js, b.Tenant, b.ID, f)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.learn(out)
	return out, nil
}
