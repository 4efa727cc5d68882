package schemas

import "slices"

// Session is a job's place in a conversation. Its body holds the new messages alone; the worker puts
// the history in front of them.
type Session struct {
	// ID names the conversation, among those of the tenant. One that is not there is made.
	ID string `json:"id"`
	// Parent is the turn to answer: the last of Branch by default, [RootTurn] for none.
	Parent string `json:"parent,omitempty"`
	// Branch is the branch that the turn is added to; the active one by default.
	Branch string `json:"branch,omitempty"`
	// ExpectRev refuses the turn if the session has moved on since.
	ExpectRev *int64 `json:"expect_rev,omitempty"`
	// Serialize refuses the turn while another is in flight. Otherwise the two branch.
	Serialize bool `json:"serialize,omitempty"`
	// Window is what to do with a history that does not fit; the model's own setting by default.
	Window WindowStrategy `json:"window,omitempty"`
	// Summarize makes the job write the summary of everything up to a turn, in place of a new turn.
	// Its body gives no messages that count.
	Summarize string `json:"summarize,omitempty"`
}

// RootTurn stands for no turn, where a parent is named and "" is the last one.
const RootTurn = "root"

// WindowStrategy says what to do with a history that does not fit the model's window.
type WindowStrategy string

// The strategies.
const (
	// WindowTokenBudget leaves out the oldest turns.
	WindowTokenBudget WindowStrategy = "token_budget"
	// WindowLastN keeps no more than the last few turns.
	WindowLastN WindowStrategy = "last_n"
	// WindowSummarize puts a summary in place of what is left out.
	WindowSummarize WindowStrategy = "summarize"
	// WindowError fails the job.
	WindowError WindowStrategy = "error"
)

// WindowStrategies lists every strategy.
func WindowStrategies() []WindowStrategy {
	return []WindowStrategy{WindowTokenBudget, WindowLastN, WindowSummarize, WindowError}
}

// Valid reports whether s is one of [WindowStrategies].
func (s WindowStrategy) Valid() bool { return slices.Contains(WindowStrategies(), s) }

// Turn is what became of a job's turn in its conversation: on events that open an attempt, what is
// answered and with how much history; on the event that ends the job, and in its Result, whether it
// was stored.
type Turn struct {
	Session string `json:"session"`
	// ID is the turn's own.
	ID string `json:"id,omitempty"`
	// Parent is the turn that it answers, "" for none.
	Parent string `json:"parent,omitempty"`
	Branch string `json:"branch,omitempty"`
	// LeftOut is what of the history the engine was not shown; nil if it was shown all.
	LeftOut *LeftOut `json:"left_out,omitempty"`
	// State is "" until the job ends.
	State TurnState `json:"state,omitempty"`
	// Rev is the session's revision: before the turn, and after it once that is stored.
	Rev int64 `json:"rev,omitempty"`
	// Head is set if the turn became the last of its branch.
	Head bool `json:"head,omitempty"`
	// Reason says why the turn is not stored.
	Reason string `json:"reason,omitempty"`
}

// TurnState says whether a turn is part of its conversation.
type TurnState string

// The states.
const (
	// TurnStored turns are history.
	TurnStored TurnState = "stored"
	// TurnPending turns could not be stored when their job ended; the worker keeps the job until they are.
	TurnPending TurnState = "pending"
	// TurnKept turns did not finish: they can be read, and are no history.
	TurnKept TurnState = "kept"
	// TurnDropped turns are not in the session at all.
	TurnDropped TurnState = "dropped"
)

// LeftOut says what of a history is not in a prompt.
type LeftOut struct {
	Strategy WindowStrategy `json:"strategy"`
	Turns    int            `json:"turns"`
	Messages int            `json:"messages"`
	// Tokens is an estimate.
	Tokens int `json:"tokens"`
	// Summary is the turn whose summary stands for some of it, or all; "" if none does.
	Summary string `json:"summary,omitempty"`
}

func (s *Session) validate(f *faults) {
	if err := CheckToken(s.ID); err != nil {
		f.add("session.id", "%w", err)
	}
	for _, field := range []struct{ name, value string }{{"session.parent", s.Parent}, {"session.branch", s.Branch}, {"session.summarize", s.Summarize}} {
		if field.value == "" {
			continue
		}
		if err := checkToken(field.value, maxTurnID); err != nil {
			f.add(field.name, "%w", err)
		}
	}
	if s.ExpectRev != nil && *s.ExpectRev < 0 {
		f.add("session.expect_rev", "is %d; want 0 or more", *s.ExpectRev)
	}
	if s.Window != "" && !s.Window.Valid() {
		f.add("session.window", "is %.64q; want one of token_budget, last_n, summarize, error", s.Window)
	}
}
