package workers_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// BenchmarkTurn is a job from its publish to its terminal event, without a session, and as a turn of one that has a
// history of some turns in a real Redis: what differs is the claim, the reading, the count of tokens and the commit.
func BenchmarkTurn(b *testing.B) {
	for _, turns := range []int{-1, 0, 20, 200} {
		name := fmt.Sprintf("history=%d", turns)
		if turns < 0 {
			name = "no session"
		}
		b.Run(name, func(b *testing.B) {
			srv, err := embedded.StartRedis(b.Context(), embedded.RedisConfig{Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = srv.Close() })
			c := &talks{broker: newBroker(b, queue.Config{}), store: storeAt(b, srv.Addr(), conversation.Config{})}
			_, engine := simulate(b, vllmsim.Config{MaxModelLen: 8192})
			c.run(engine, c.config(workers.Sessions{}))
			if _, err := c.store.Create(b.Context(), conversation.NewSession{Tenant: tenant, ID: "s"}); err != nil {
				b.Fatal(err)
			}
			parent := schemas.RootTurn
			for i := range turns {
				at, err := c.store.Append(b.Context(), c.ref("s"), conversation.NewTurn{Job: fmt.Sprintf("h%d", i), Parent: parent, Messages: []conversation.Message{
					conversation.Text("user", "Why is the sky blue?"), conversation.Text("assistant", "Because of the scattering of light."),
				}})
				if err != nil {
					b.Fatal(err)
				}
				parent = at.Turn
			}
			l := c.listen(schemas.AllEvents)
			b.ReportAllocs()
			for b.Loop() {
				job := schemas.Job{ID: uuid.NewString(), Stream: true, Body: json.RawMessage(chat("And at night?", 4))}
				if turns >= 0 {
					job.Session = &schemas.Session{ID: "s", Parent: parent} // a branch of its own
				}
				data, err := job.Append(nil)
				if err != nil {
					b.Fatal(err)
				}
				c.publish(schemas.JobSubject(model, schemas.Interactive, tenant), job.ID, data)
				for msg := range l.ch {
					var e schemas.Event
					if err := e.Decode(msg.Data); err != nil {
						b.Fatal(err)
					}
					if e.Kind.Terminal() {
						break
					}
				}
			}
		})
	}
}
