package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// Bounds of the end-to-end run: it is to end within seconds on two cores.
const (
	e2eMaxTokens  = 128
	e2eConcurrent = 24
)

// ownQuestions are asked where MT-Bench is not at hand.
var ownQuestions = []string{
	"Write a short story about a lighthouse that is afraid of the dark.",
	"Explain to a ten-year-old why the sky is blue.",
	"Übersetze ins Deutsche: \"The queue is empty, and so is my cup.\"",
	"What is the derivative of x^3 + 2x^2 - 5? Show each step.",
	"Implement a bounded queue in Go.\n\n```go\ntype Queue struct {}\n```",
	"Who was right, the tortoise or Achilles? 🐢",
	strings.Repeat("Summarise this sentence. ", 60),
}

// questions returns the first turn of every question.
func questions(t *testing.T) (list []string, from string) {
	t.Helper()
	all, from := dialogues(t)
	for _, turns := range all {
		list = append(list, turns[0])
	}
	return list, from
}

// dialogues returns the two turns of every MT-Bench question: from the file that HXP_MT_BENCH
// names, or from the data folder beside the repository.
func dialogues(t *testing.T) (list [][]string, from string) {
	t.Helper()
	path := os.Getenv("HXP_MT_BENCH")
	named := path != ""
	if !named {
		path = "../../../shared/data/mt_bench.jsonl"
	}
	data, err := os.ReadFile(path)
	if !named && errors.Is(err, fs.ErrNotExist) {
		for _, q := range ownQuestions {
			list = append(list, []string{q, "Say it again, in other words."})
		}
		return list, "built-in questions"
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var q struct {
			Turns []string `json:"turns"`
		}
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if len(q.Turns) < 2 {
			t.Fatalf("%s: a question without two turns: %s", path, lines.Text())
		}
		list = append(list, q.Turns[:2])
	}
	if err := lines.Err(); err != nil || len(list) == 0 {
		t.Fatalf("%s: %d questions, %v", path, len(list), err)
	}
	return list, "MT-Bench"
}

// TestE2EEveryQuestionThroughEveryModel streams every question through each of the four models and
// compares every byte with what the engine makes of it when nothing is in between.
func TestE2EEveryQuestionThroughEveryModel(t *testing.T) {
	t.Parallel()
	all, from := questions(t)
	models := []string{"mixtral", "hermes", "openchat", "phi3"}
	cluster := start(t, "--sim-ttft", "5ms", "--sim-itl", "1ms", "--log-level", "warn")
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

	var jobs, tokens, events, again, mismatches atomic.Int64
	began := time.Now()
	work := make(chan schemas.Job)
	var asking sync.WaitGroup
	for range e2eConcurrent {
		asking.Go(func() {
			for job := range work {
				jobs.Add(1)
				got, err := ask(t, client, job)
				tokens.Add(int64(got.tokens))
				events.Add(int64(got.events))
				again.Add(int64(got.attempts - 1))
				if err != nil {
					mismatches.Add(1)
					t.Errorf("%s: %v", job.Model, err)
				}
			}
		})
	}
	for i, q := range all {
		for j, m := range models {
			body, err := json.Marshal(map[string]any{
				"messages": []map[string]string{{"role": "user", "content": q}}, "max_tokens": e2eMaxTokens, "stream": true,
			})
			if err != nil {
				t.Fatal(err)
			}
			work <- schemas.Job{Model: m, Class: schemas.Classes()[(i+j)%3], Body: body}
		}
	}
	close(work)
	asking.Wait()
	took := time.Since(began)
	t.Logf("%s: questions=%d models=%d jobs=%d tokens=%d events=%d redeliveries=%d mismatches=%d seconds=%.1f tokens_per_second=%.0f",
		from, len(all), len(models), jobs.Load(), tokens.Load(), events.Load(), again.Load(), mismatches.Load(), took.Seconds(), float64(tokens.Load())/took.Seconds())
	if want := int64(len(all) * len(models)); jobs.Load() != want {
		t.Errorf("%d jobs, want %d", jobs.Load(), want)
	}
}

// asked is what one job amounted to.
type asked struct{ tokens, events, attempts int }

// ask streams one job to its end. The error says where the stream is not what it has to be.
func ask(t *testing.T, client *producer.Client, job schemas.Job) (got asked, err error) {
	t.Helper()
	got.attempts = 1
	want, err := vllmsim.Expected(job.Model, job.Body, string(schemas.ChatCompletions))
	if err != nil {
		return got, err
	}
	s, err := client.Submit(t.Context(), job)
	if err != nil {
		return got, err
	}
	defer s.Close()
	var text []byte
	var ids []int
	var last schemas.Event
	for e, err := range s.Events(t.Context()) {
		if err != nil {
			return got, err
		}
		if e.Seq != uint64(got.events) {
			return got, fmt.Errorf("job %s: event %d is number %d of its stream", e.ID, e.Seq, got.events)
		}
		got.events++
		last = e
		switch e.Kind {
		case schemas.Restarted:
			text, ids = nil, nil
		case schemas.DeltaKind:
			parts, err := openai.ParseChoices(e.Choices, nil)
			if err != nil {
				return got, err
			}
			for _, p := range parts {
				text = append(text, p.Text...)
				ids = append(ids, p.TokenIDs...)
			}
		}
	}
	got.tokens = len(ids)
	r, err := s.Result(t.Context())
	if err != nil {
		return got, err
	}
	got.attempts = r.Attempts
	switch {
	case last.Kind != schemas.Done || r.Status != schemas.StatusCompleted:
		err = fmt.Errorf("ended with event %s and status %s: %v", last.Kind, r.Status, r.Error)
	case string(text) != want[0].Text:
		err = fmt.Errorf("streamed %q, want %q", text, want[0].Text)
	case r.Text != want[0].Text:
		err = fmt.Errorf("the result is %q, want %q", r.Text, want[0].Text)
	case fmt.Sprint(ids) != fmt.Sprint(want[0].TokenIDs):
		err = fmt.Errorf("streamed tokens %v, want %v", ids, want[0].TokenIDs)
	case r.LastSeq != last.Seq:
		err = fmt.Errorf("last_seq is %d, want %d", r.LastSeq, last.Seq)
	case r.Usage == nil || r.Usage.CompletionTokens != len(ids):
		err = fmt.Errorf("usage is %+v, want %d tokens", r.Usage, len(ids))
	}
	if err != nil {
		err = fmt.Errorf("job %s: %w", r.ID, err)
	}
	return got, err
}
