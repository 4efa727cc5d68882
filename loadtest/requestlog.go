package loadtest

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Record is a line of the request log.
type Record struct {
	Target string `json:"target"`
	Stage  string `json:"stage"`
	Round  int    `json:"round"`
	N      int    `json:"n"`
	Turn   int    `json:"turn,omitempty"`
	Model  string `json:"model"`
	Class  string `json:"class"`
	Tenant string `json:"tenant"`
	Job    string `json:"job,omitempty"`
	// Due is when it was to be sent, in seconds from the start of the run.
	Due         float64 `json:"due"`
	LagMS       float64 `json:"lag_ms"`
	AcceptMS    float64 `json:"accept_ms,omitempty"`
	QueueWaitMS float64 `json:"queue_wait_ms,omitempty"`
	TTFTMS      float64 `json:"ttft_ms,omitempty"`
	TPOTMS      float64 `json:"tpot_ms,omitempty"`
	E2ELMS      float64 `json:"e2el_ms"`
	EndMS       float64 `json:"end_ms"`
	InputLen    int     `json:"input_len,omitempty"`
	OutputLen   int     `json:"output_len,omitempty"`
	Chunks      int     `json:"chunks,omitempty"`
	Attempts    int     `json:"attempts,omitempty"`
	Finish      string  `json:"finish_reason,omitempty"`
	Code        string  `json:"code,omitempty"`
	Error       string  `json:"error,omitempty"`
	Lost        bool    `json:"lost,omitempty"`
	Doubled     bool    `json:"doubled,omitempty"`
	Gap         bool    `json:"gap,omitempty"`
	Different   bool    `json:"different,omitempty"`
	// Reply is the 64-bit FNV-1a hash of the reply's text.
	Reply string `json:"reply,omitempty"`
}

// requestLog writes a line for each request. Its zero value writes nothing.
type requestLog struct {
	w      io.Writer
	began  time.Time
	target string
	stage  string
	round  int
}

func (g *requestLog) write(e *ending, l latencies) error {
	if g.w == nil {
		return nil
	}
	o := e.o
	rec := Record{
		Target: g.target, Stage: g.stage, Round: g.round, N: e.r.N, Turn: e.r.Turn, Model: e.r.Model, Class: string(e.r.Class), Tenant: e.r.Tenant,
		Job: o.Job, Due: e.r.Due.Sub(g.began).Seconds(), LagMS: millis(l.lag), AcceptMS: millis(l.accept), QueueWaitMS: millis(o.QueueWait),
		E2ELMS: millis(l.e2el), EndMS: millis(l.end), OutputLen: o.OutputTokens(), Chunks: o.outputs, Attempts: o.Attempts, Finish: o.Finish,
		Code: e.code, Lost: o.Lost, Doubled: o.Doubled, Gap: o.Gap, Different: e.different,
	}
	if l.first {
		rec.TTFTMS = millis(l.ttft)
	}
	if l.perToken {
		rec.TPOTMS = millis(l.tpot)
	}
	if o.Usage != nil {
		rec.InputLen = o.Usage.PromptTokens
	}
	if e.err != nil {
		rec.Error = fmt.Sprintf("%.300s", e.err)
	}
	if o.texted {
		rec.Reply = fmt.Sprintf("%016x", o.hash)
	}
	line, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("request log: %w", err)
	}
	if _, err := g.w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("request log: %w", err)
	}
	return nil
}

// millis is d in milliseconds, to the microsecond.
func millis(d time.Duration) float64 { return float64(d.Round(time.Microsecond).Microseconds()) / 1000 }
