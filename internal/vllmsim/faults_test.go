package vllmsim_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
)

func (r *rig) inject(t testing.TB, f vllmsim.Fault) {
	t.Helper()
	if code, body := r.do(t, http.MethodPost, "/sim/faults", f); code != http.StatusNoContent {
		t.Fatalf("inject %+v: %d %v", f, code, body)
	}
}

// story is a request for exactly n tokens.
func story(n int) obj {
	return obj{"prompt": "Tell me a poisoned story", "max_tokens": n, "ignore_eos": true, "return_token_ids": true}
}

func TestFaultsBeforeAStream(t *testing.T) {
	t.Parallel()
	for kind, want := range map[vllmsim.FaultKind]int{vllmsim.ErrorBefore: 500, vllmsim.QueueFull: 503} {
		r := newRig(t, vllmsim.Config{})
		r.inject(t, vllmsim.Fault{Kind: kind, Count: 2, Match: "poison"})
		if code, _ := r.do(t, http.MethodPost, completions, obj{"prompt": "harmless"}); code != 200 {
			t.Errorf("%s: a request that does not match got %d", kind, code)
		}
		for i, wantCode := range []int{want, want, 200} {
			if code, body := r.do(t, http.MethodPost, completions, story(1)); code != wantCode {
				t.Errorf("%s, request %d: status %d, want %d: %v", kind, i, code, wantCode, body)
			}
		}
		if st := r.Stats(); st.Requests != 2 {
			t.Errorf("%s: %d requests were taken on, want 2", kind, st.Requests)
		}
	}
}

func TestFaultsInAStream(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind   vllmsim.FaultKind
		after  int
		end    error
		fault  bool
		finish string
	}{
		{vllmsim.ErrorInStream, 3, errDone, true, ""},
		{vllmsim.ErrorInStream, 0, errDone, true, ""},
		{vllmsim.EOF, 3, io.ErrUnexpectedEOF, false, ""},
		{vllmsim.EOF, 0, io.ErrUnexpectedEOF, false, ""},
		{vllmsim.Abort, 3, errDone, false, "abort"},
		{vllmsim.Abort, 0, errDone, false, "abort"},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			t.Parallel()
			for _, path := range []string{completions, chat} {
				r := newRig(t, vllmsim.Config{Faults: []vllmsim.Fault{{Kind: c.kind, AfterTokens: c.after, Match: "poison"}}})
				body := story(10)
				body["messages"] = []obj{message("user", "poison")}
				res := r.stream(t, path, body)
				if !errors.Is(res.end, c.end) || (res.fault != nil) != c.fault {
					t.Errorf("%s: ended with %v and error frame %v", path, res.end, res.fault)
				}
				tokens, finish := 0, ""
				if got := res.choices[0]; got != nil {
					tokens, finish = len(got.TokenIDs), got.FinishReason
				}
				if tokens != c.after || finish != c.finish {
					t.Errorf("%s: %d tokens and finish_reason %q, want %d and %q", path, tokens, finish, c.after, c.finish)
				}
				if res := r.stream(t, path, body); res.end != errDone || len(res.choices[0].TokenIDs) != 10 {
					t.Errorf("%s: the fault was for one request, the next ended with %v", path, res.end)
				}
				if st := r.Stats(); st.Aborted+st.Errors != 1 || st.Finished != 1 || st.Running != 0 {
					t.Errorf("%s: stats = %+v", path, st)
				}
			}
		})
	}
}

func TestFaultsInOnePiece(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{})
	r.inject(t, vllmsim.Fault{Kind: vllmsim.ErrorInStream, AfterTokens: 2})
	if code, body := r.do(t, http.MethodPost, completions, story(10)); code != 500 || body["error"] == nil {
		t.Errorf("error: %d %v", code, body)
	}
	r.inject(t, vllmsim.Fault{Kind: vllmsim.EOF, AfterTokens: 2})
	if _, err := r.send(t.Context(), t, http.MethodPost, completions, story(10)); !errors.Is(err, io.EOF) {
		t.Errorf("cut connection: error %v", err)
	}
	r.inject(t, vllmsim.Fault{Kind: vllmsim.Abort, AfterTokens: 2})
	body := story(10)
	body["n"] = 2
	_, got := r.do(t, http.MethodPost, completions, body)
	for _, c := range got["choices"].([]any) {
		if c.(obj)["finish_reason"] != "abort" {
			t.Errorf("abort: choice %v", c)
		}
	}
	// One that the request does not reach stays armed.
	r.inject(t, vllmsim.Fault{Kind: vllmsim.Abort, AfterTokens: 10})
	if code, _ := r.do(t, http.MethodPost, completions, story(10)); code != 200 {
		t.Errorf("fault after the end: status %d", code)
	}
	resp, err := r.send(t.Context(), t, http.MethodGet, "/sim/faults", "")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var list []vllmsim.Fault
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]vllmsim.Fault{{Kind: vllmsim.Abort, Count: 1, AfterTokens: 10}}, list); d != "" {
		t.Errorf("armed faults (-want +got):\n%s", d)
	}
}

// TestAbortReachesSequencesThatWait ends a request of which only one choice runs.
func TestAbortReachesSequencesThatWait(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{MaxNumSeqs: 1, Faults: []vllmsim.Fault{{Kind: vllmsim.Abort, AfterTokens: 2}}})
	body := story(10)
	body["n"] = 3
	res := r.stream(t, completions, body)
	for i := range 3 {
		if res.choices[i] == nil || res.choices[i].FinishReason != "abort" {
			t.Errorf("choice %d = %+v", i, res.choices[i])
		}
	}
	if st := r.Stats(); st.Aborted != 3 || st.Waiting != 0 {
		t.Errorf("stats = %+v", st)
	}
}

func TestHangStopsTokensAndNothingElse(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{Faults: []vllmsim.Fault{{Kind: vllmsim.Hang, AfterTokens: 5, Count: -1}}})
	l := r.open(t.Context(), t, completions, story(20))
	for range 5 {
		if _, err := l.next(); err != nil {
			t.Fatal(err)
		}
	}
	r.until(t, "the hang", func(st vllmsim.Stats) bool { return st.GenerationTokens == 5 })
	if code, _ := r.do(t, http.MethodGet, "/health", ""); code != 200 {
		t.Errorf("health = %d while hung, want 200", code)
	}
	other := r.open(t.Context(), t, completions, story(3))
	if st := r.Stats(); st.GenerationTokens != 5 || st.Running != 1 || st.Waiting != 1 {
		t.Errorf("while hung: %+v", st)
	}
	r.do(t, http.MethodDelete, "/sim/faults", "")
	if res := l.rest(); res.end != errDone || len(res.choices[0].TokenIDs) != 15 {
		t.Errorf("after the hang: %v, %+v", res.end, res.choices[0])
	}
	if res := other.rest(); res.end != errDone {
		t.Errorf("the other stream ended with %v", res.end)
	}

	// At once, and for a time.
	if err := r.InjectFault(vllmsim.Fault{Kind: vllmsim.Hang, Duration: 30 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if res := r.stream(t, completions, story(3)); res.end != errDone || time.Since(start) < 25*time.Millisecond {
		t.Errorf("ended with %v after %v", res.end, time.Since(start))
	}
}

func TestHangOfOneRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{})
	r.inject(t, vllmsim.Fault{Kind: vllmsim.Hang, AfterTokens: 1, Match: "poison", Count: -1})
	l := r.open(t.Context(), t, completions, story(5))
	if _, err := l.next(); err != nil {
		t.Fatal(err)
	}
	if res := r.stream(t, completions, obj{"prompt": "harmless"}); res.end != errDone {
		t.Errorf("another request ended with %v", res.end)
	}
	if st := r.Stats(); st.Running != 1 {
		t.Errorf("stats = %+v", st)
	}
	r.ClearFaults()
	if res := l.rest(); res.end != errDone || len(res.choices[0].TokenIDs) != 4 {
		t.Errorf("after the hang: %v", res.end)
	}
	r.inject(t, vllmsim.Fault{Kind: vllmsim.Hang, AfterTokens: 1, Match: "poison", Duration: 20 * time.Millisecond, Count: -1})
	if res := r.stream(t, completions, story(5)); res.end != errDone || len(res.choices[0].TokenIDs) != 5 {
		t.Errorf("after a hang for a time: %v", res.end)
	}
	// A client that gives up frees the slot all the same.
	ctx, cancel := context.WithCancel(t.Context())
	r.inject(t, vllmsim.Fault{Kind: vllmsim.Hang})
	r.open(ctx, t, completions, story(5))
	cancel()
	r.until(t, "the abort", func(st vllmsim.Stats) bool { return st.Aborted == 1 && st.Running+st.Waiting == 0 })
}

func TestSlowStart(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{StartDelay: time.Hour})
	for _, path := range []string{"/health", "/v1/models", "/metrics"} {
		if code, _ := r.do(t, http.MethodGet, path, ""); code != http.StatusServiceUnavailable {
			t.Errorf("%s = %d while starting, want 503", path, code)
		}
	}
	r.ClearFaults()
	if code, _ := r.do(t, http.MethodGet, "/health", ""); code != 200 {
		t.Errorf("health = %d when started", code)
	}
	r.inject(t, vllmsim.Fault{Kind: vllmsim.SlowStart, Duration: time.Hour})
	if code, _ := r.do(t, http.MethodPost, completions, story(1)); code != http.StatusServiceUnavailable {
		t.Errorf("status %d during slow start, want 503", code)
	}
}

func TestCrashCutsEverything(t *testing.T) {
	t.Parallel()
	codes := make(chan int, 1)
	r := newRig(t, vllmsim.Config{ITL: time.Hour, Exit: func(code int) { codes <- code }})
	calm := r.open(t.Context(), t, completions, obj{"prompt": "harmless"})
	if _, err := calm.next(); err != nil {
		t.Fatal(err)
	}
	r.inject(t, vllmsim.Fault{Kind: vllmsim.Crash, Match: "poison"})
	if res := r.stream(t, completions, story(5)); !errors.Is(res.end, io.ErrUnexpectedEOF) {
		t.Errorf("the poisoned stream ended with %v", res.end)
	}
	if res := calm.rest(); !errors.Is(res.end, io.ErrUnexpectedEOF) {
		t.Errorf("the other stream ended with %v", res.end)
	}
	if _, err := r.send(t.Context(), t, http.MethodGet, "/health", ""); err == nil {
		t.Error("a crashed engine answers")
	}
	if code := <-codes; code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if err := r.InjectFault(vllmsim.Fault{Kind: vllmsim.Crash}); err != nil {
		t.Errorf("a second crash: %v", err)
	}
}

func TestFaultsAreChecked(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{})
	for body, want := range map[string]string{
		`{"kind":"nope"}`:                  `kind "nope"`,
		`{"kind":"eof","after_tokens":-1}`: "after_tokens is -1",
		`{"kind":"slow"}`:                  "factor is 0",
		`{"kind":"hang","duration":"-1s"}`: "duration is -1s",
		`{"kind":"hang","duration":"x"}`:   "duration",
		`{"kind":"hang","aftertokens ":1}`: "unknown field",
		`{"kind":"hang","duration":1}`:     "duration",
		`{`:                                "JSON",
	} {
		code, got := r.do(t, http.MethodPost, "/sim/faults", body)
		if msg, _ := json.Marshal(got); code != 400 || !strings.Contains(strings.ReplaceAll(string(msg), `\"`, `"`), want) {
			t.Errorf("%s: %d %s, want 400 with %q", body, code, msg, want)
		}
	}
	f := vllmsim.Fault{Kind: vllmsim.Hang, Count: 3, AfterTokens: 2, Duration: 1500 * time.Millisecond, Match: "x"}
	var back vllmsim.Fault
	if err := json.Unmarshal(encode(t, f), &back); err != nil || back != f {
		t.Errorf("through JSON: %+v, %v; want %+v", back, err, f)
	}
}
