package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

// line makes one message.
func line(role, content string) map[string]string {
	return map[string]string{"role": role, "content": content}
}

// formats are the prompts that the models' own chat templates make of two questions and the answer
// between them.
var formats = map[string]string{
	"hermes":   "<s><|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n%s<|im_end|>\n<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n",
	"openchat": "<s>GPT4 Correct User: %s<|end_of_turn|>GPT4 Correct Assistant: %s<|end_of_turn|>GPT4 Correct User: %s<|end_of_turn|>GPT4 Correct Assistant:",
}

// TestE2EConversations asks every question of two turns as a conversation, each turn a job of its own
// with nothing but its own message. The second prompt at the engine holds the first turn.
func TestE2EConversations(t *testing.T) {
	t.Parallel()
	all, from := dialogues(t)
	cluster := start(t, "--sim-ttft", "5ms", "--sim-itl", "1ms", "--log-level", "warn", "--set", "log.prompts=true",
		// The simulator's tokens are shorter than the model's, and the longest questions are to fit.
		"--set", "ai_model_services.openchat.max_model_len=32768", "--set", "ai_model_services.hermes.max_model_len=32768")
	nc, err := nats.Connect(cluster.NATS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	client, err := producer.New(nc, producer.Config{Tenant: "e2e", SubmitTimeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })

	type talk struct {
		model string
		turns []string
	}
	var mu sync.Mutex
	want := map[string][]string{} // prompts of second turns, by model
	var turns, mismatches atomic.Int64
	began := time.Now()
	work := make(chan talk)
	var talking sync.WaitGroup
	for range e2eConcurrent {
		talking.Go(func() {
			for k := range work {
				session := &schemas.Session{ID: uuid.NewString()}
				var history []map[string]string
				for _, question := range k.turns {
					history = append(history, line("user", question))
					answer, err := turn(t, client, k.model, session, history)
					if err != nil {
						mismatches.Add(1)
						t.Errorf("%s, turn %d of %.40q: %v", k.model, len(history), k.turns[0], err)
						break
					}
					turns.Add(1)
					history = append(history, line("assistant", answer))
				}
				if len(history) == 4 {
					mu.Lock()
					want[k.model] = append(want[k.model], fmt.Sprintf(formats[k.model], k.turns[0], history[1]["content"], k.turns[1]))
					mu.Unlock()
				}
			}
		})
	}
	for _, q := range all {
		for model := range formats {
			work <- talk{model, q}
		}
	}
	close(work)
	talking.Wait()
	t.Logf("%s: conversations=%d turns=%d mismatches=%d seconds=%.1f", from, len(all)*len(formats), turns.Load(), mismatches.Load(), time.Since(began).Seconds())
	if n := int64(2 * len(all) * len(formats)); turns.Load() != n {
		t.Errorf("%d turns, want %d", turns.Load(), n)
	}
	for model, prompts := range want {
		got := rendered(t, cluster.Engines[model])
		for _, p := range prompts {
			if !got[p] {
				t.Errorf("the engine of %s never saw the prompt %q", model, p)
			}
		}
	}
}

// turn asks the last of the messages in a session and returns the answer, which has to be the one that
// an engine gives to all of them.
func turn(t *testing.T, client *producer.Client, model string, session *schemas.Session, messages []map[string]string) (string, error) {
	t.Helper()
	body := func(messages []map[string]string) []byte {
		raw, err := json.Marshal(map[string]any{"messages": messages, "max_tokens": e2eMaxTokens})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	want, err := vllmsim.Expected(model, body(messages), string(schemas.ChatCompletions))
	if err != nil {
		return "", err
	}
	r, err := client.Do(t.Context(), schemas.Job{Model: model, Body: body(messages[len(messages)-1:]), Session: session})
	switch {
	case err != nil:
		return "", err
	case r.Status != schemas.StatusCompleted:
		return "", fmt.Errorf("job %s is %s: %v", r.ID, r.Status, r.Error)
	case r.Text != want[0].Text:
		return "", fmt.Errorf("job %s answers %q, want %q", r.ID, r.Text, want[0].Text)
	case r.Turn == nil || r.Turn.State != schemas.TurnStored || !r.Turn.Head || r.Turn.Session != session.ID:
		return "", fmt.Errorf("job %s: its turn is %+v, want it stored as the head", r.ID, r.Turn)
	}
	return r.Text, nil
}

// rendered are the prompts that a simulated engine got.
func rendered(t *testing.T, engine string) map[string]bool {
	t.Helper()
	resp, err := http.Get(strings.TrimSuffix(engine, "/") + "/sim/prompts")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body struct{ Prompts []string }
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v", resp.Status, err)
	}
	set := map[string]bool{}
	for _, p := range body.Prompts {
		set[p] = true
	}
	return set
}
