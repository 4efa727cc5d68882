//go:build chaos && linux

package chaos_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
)

// task is one job with what an undisturbed engine makes of it.
type task struct {
	job  schemas.Job
	want vllmsim.Completion
}

// random is the scenario's own source of chance.
func random(scenario string) *rand.Rand {
	var salt uint64
	for _, c := range scenario {
		salt = salt*31 + uint64(c)
	}
	return rand.New(rand.NewPCG(*seed, salt))
}

var vocabulary = strings.Fields("the queue keeps what a worker drops and a stream goes on where it was cut while nobody counts tokens twice café Tromsø")

// tasks makes n jobs of so many tokens each. Chats and completions take turns; some have a stop
// string that never comes, so that text is held back across the seam.
func tasks(t *testing.T, scenario string, n, tokens int) []*task {
	t.Helper()
	rng := random(scenario + "/prompts")
	list := make([]*task, n)
	for i := range list {
		words := make([]string, 8+rng.IntN(24))
		for k := range words {
			words[k] = vocabulary[rng.IntN(len(vocabulary))]
		}
		prompt := fmt.Sprintf("%d %s", i, strings.Join(words, " "))
		// The lower bound keeps replies from ending early. ignore_eos would too, but leaves tokens without text in them.
		body := map[string]any{"max_tokens": tokens, "min_tokens": tokens, "stream": true}
		endpoint := schemas.Completions
		if i%2 == 0 {
			endpoint = schemas.ChatCompletions
			body["messages"] = []map[string]string{{"role": "user", "content": prompt}}
		} else {
			body["prompt"] = prompt
		}
		if i%4 == 0 {
			body["stop"] = []string{"a text that never comes"}
		}
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		want, err := vllmsim.Expected(model, raw, string(endpoint))
		if err != nil {
			t.Fatal(err)
		}
		list[i] = &task{
			job:  schemas.Job{ID: fmt.Sprintf("%s-%04d", scenario, i), Model: model, Class: schemas.Standard, Tenant: tenant, Endpoint: endpoint, Body: raw, Stream: true},
			want: want[0],
		}
	}
	return list
}

// submit publishes a job as any client of NATS could and returns once the queue has acknowledged it.
// It tries again, under the same id, for so long.
func (b *bed) submit(ctx context.Context, j *schemas.Job, within time.Duration) error {
	payload, err := j.Append(nil)
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, within)
	defer stop()
	for {
		msg := &nats.Msg{Subject: schemas.JobSubject(j.Model, j.Class, j.Tenant), Data: payload, Header: nats.Header{}}
		msg.Header.Set(schemas.HeaderMsgID, schemas.MsgID(j.Tenant, j.ID))
		try, over := context.WithTimeout(ctx, 2*time.Second)
		_, err := b.js.PublishMsg(try, msg, jetstream.WithRetryAttempts(0))
		over()
		if err == nil {
			return nil
		}
		if !pause(ctx, 100*time.Millisecond) {
			return fmt.Errorf("submit %s: %w", j.ID, err)
		}
	}
}
