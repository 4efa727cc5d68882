package vllmsim

import "time"

// Phase is how far a sequence was.
type Phase string

// The phases.
const (
	Waiting Phase = "waiting"
	Prefill Phase = "prefill"
	Decode  Phase = "decode"
)

// Aborted is one sequence that was ended before its time.
type Aborted struct {
	// ID is the request's id on the wire, such as cmpl-....
	ID     string    `json:"id"`
	At     time.Time `json:"at"`
	Phase  Phase     `json:"phase"`
	Tokens int       `json:"tokens"`
}

// Stats counts what the engine has done. Sequences are the choices of requests.
type Stats struct {
	// Running and Waiting are sequences at this moment.
	Running int `json:"running"`
	Waiting int `json:"waiting"`
	// Finished and Aborted are sequences that came to their end, and that were aborted: by a client that went away, a fault or a shutdown.
	Finished int `json:"finished"`
	Aborted  int `json:"aborted"`
	// Errors are sequences that a fault ended with an error.
	Errors int `json:"errors"`
	// PromptTokens are those of admitted sequences, GenerationTokens those produced.
	PromptTokens     int `json:"prompt_tokens"`
	GenerationTokens int `json:"generation_tokens"`
	// Requests are the generation requests that were taken on.
	Requests int `json:"requests"`
	// Aborts are the last 1024 aborted sequences, oldest first.
	Aborts []Aborted `json:"aborts,omitempty"`
}

// kept is how many aborts and prompts are remembered.
const kept = 1024

// Stats returns the counters.
func (s *Sim) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Running, st.Waiting = len(s.running), len(s.waiting)
	st.Aborts = append([]Aborted(nil), s.stats.Aborts...)
	return st
}

// Prompts returns the rendered text of the last 1024 prompts, oldest first. It is empty without
// [Config.LogPrompts].
func (s *Sim) Prompts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.prompts...)
}

// remember appends v, dropping the oldest over the bound.
func remember[T any](list []T, v T) []T {
	if len(list) == kept {
		copy(list, list[1:])
		list = list[:kept-1]
	}
	return append(list, v)
}
