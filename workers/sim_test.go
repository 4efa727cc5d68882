package workers_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

// simulate runs a simulated vLLM behind real HTTP and returns a client of it.
func simulate(t testing.TB, cfg vllmsim.Config) (*vllmsim.Sim, *vllm.Engine) {
	t.Helper()
	cfg.Model = model
	sim, err := vllmsim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(sim.Handler())
	engine, err := vllm.New(srv.URL, vllm.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		sim.ClearFaults()
		srv.CloseClientConnections()
		engine.Close()
		srv.Close()
	})
	return sim, engine
}

func expect(t testing.TB, body string) string {
	t.Helper()
	want, err := vllmsim.Expected(model, []byte(body), string(schemas.ChatCompletions))
	if err != nil {
		t.Fatal(err)
	}
	return want[0].Text
}

func chat(prompt string, maxTokens int) string {
	return fmt.Sprintf(`{"messages":[{"role":"user","content":%q}],"max_tokens":%d,"ignore_eos":true}`, prompt, maxTokens)
}

func TestEveryFaultOfTheEngineEndsInTheSameText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fault vllmsim.Fault
		want  string // kinds of events
	}{
		{vllmsim.Fault{Kind: vllmsim.ErrorBefore}, "started interrupted resumed delta usage done"},
		{vllmsim.Fault{Kind: vllmsim.QueueFull}, "started interrupted resumed delta usage done"},
		{vllmsim.Fault{Kind: vllmsim.ErrorInStream, AfterTokens: 5}, "started delta interrupted resumed delta usage done"},
		{vllmsim.Fault{Kind: vllmsim.EOF, AfterTokens: 5}, "started delta interrupted resumed delta usage done"},
		{vllmsim.Fault{Kind: vllmsim.Abort, AfterTokens: 5}, "started delta interrupted resumed delta usage done"},
		{vllmsim.Fault{Kind: vllmsim.Hang, AfterTokens: 5, Match: "fault", Duration: 5 * time.Second}, "started delta interrupted resumed delta usage done"},
	} {
		t.Run(string(c.fault.Kind), func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, queue.Config{Lease: 900 * time.Millisecond})
			sim, engine := simulate(t, vllmsim.Config{ITL: time.Millisecond})
			b.run(engine, workers.Config{TokenTimeout: 400 * time.Millisecond})
			if err := sim.InjectFault(c.fault); err != nil {
				t.Fatal(err)
			}
			l := b.listen(schemas.AllEvents)
			body := chat("survive a fault", 60)
			job := b.submit(schemas.Job{Stream: true, Body: json.RawMessage(body)})
			events := l.end(1)
			if got := kinds(events); got != c.want {
				t.Errorf("kinds = %q, want %q: %+v", got, c.want, events)
			}
			want := expect(t, body)
			if got := textOf(t, events); got != want {
				t.Errorf("text = %q, want %q", got, want)
			}
			if r := b.result(job); r.Text != want || r.Usage.CompletionTokens != 60 {
				t.Errorf("result = %q with %+v", r.Text, r.Usage)
			}
		})
	}
}

func TestCancelShowsAsAnAbortInTheEngine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		phase schemas.Phase
		cfg   vllmsim.Config
	}{
		{schemas.PhasePrefill, vllmsim.Config{TTFT: time.Hour}},
		{schemas.PhaseDecode, vllmsim.Config{ITL: 2 * time.Millisecond}},
	} {
		t.Run(string(c.phase), func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, queue.Config{})
			sim, engine := simulate(t, c.cfg)
			b.run(engine, workers.Config{})
			l := b.listen(schemas.AllEvents)
			job := b.submit(schemas.Job{Stream: true, Body: json.RawMessage(chat("forever", 2000))})
			waitFor(t, "the engine to run it", func() bool { return sim.Stats().Running == 1 })
			if c.phase == schemas.PhaseDecode {
				l.until(schemas.DeltaKind)
			}
			if reply := b.cancel(job); reply.Phase != c.phase {
				t.Errorf("phase = %s, want %s", reply.Phase, c.phase)
			}
			waitFor(t, "the abort", func() bool { s := sim.Stats(); return s.Aborted == 1 && s.Running == 0 })
			if r := b.result(job); r.Status != schemas.StatusCancelled {
				t.Errorf("status = %s, want cancelled", r.Status)
			}
		})
	}
}

func TestAnyOpenAIServerWillDo(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	_, engine := simulate(t, vllmsim.Config{NoExtras: true})
	s := b.run(engine, workers.Config{})
	l := b.listen(schemas.AllEvents)
	body := chat("plain", 20)
	job := b.submit(schemas.Job{Stream: true, Body: json.RawMessage(body)})
	if got, want := textOf(t, l.end(1)), expect(t, body); got != want {
		t.Errorf("text = %q, want %q", got, want)
	}
	if r := b.result(job); r.Usage == nil || r.Usage.CompletionTokens == 0 {
		t.Errorf("usage = %+v", r.Usage)
	}
	if info := s.Info(); info.Simulated || info.Version != "" {
		t.Errorf("info = %+v", info)
	}
}
