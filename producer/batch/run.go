package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

// Stdio stands for the standard input or output in place of a file's name.
const Stdio = "-"

// RunConfig is one run of a file. Its zero value reads stdin and writes stdout.
type RunConfig struct {
	// Tenant owns the jobs. Defaults to "default".
	Tenant string
	// Input is the file of requests. Defaults to [Stdio].
	Input string
	// Output is the file of replies. Defaults to [Stdio]. A run into a file can be continued.
	Output string
	// Errors is the file of lines that failed. By default they go to Output.
	Errors string
	// Stdin and Stdout are what [Stdio] stands for.
	Stdin  io.Reader
	Stdout io.Writer
	// Endpoint is the one that all lines are for. By default the first line's.
	Endpoint schemas.Endpoint
	// MaxBody is the length in bytes that a request may have. Defaults to 16 MiB.
	MaxBody int
	// SkipValidation starts at once. Lines are checked as they are read, but for a repeated custom_id, and the
	// number of lines is not known before the end.
	SkipValidation bool
	// Strict runs nothing if a line is invalid: the error is [ErrInvalid].
	Strict bool
	// Restart begins anew where a run could be continued, and overwrites what is there.
	Restart bool
	// RetryFailed tries the lines again that have failed, once a run is complete.
	RetryFailed bool
	// InFlight is how many lines are queued or running at once. By default twice the slots of the workers.
	InFlight int
	// Sweep is after how much silence a line's Result is asked for. Defaults to 5 s.
	Sweep time.Duration
	// Invalid is told of each fault that the validation finds. nil is not told.
	Invalid func(*LineError)
	// Validated is told what the validation has found, before the first line runs. nil is not told.
	Validated func(Summary)
}

// ErrInvalid says that a strict run did not begin because lines are invalid.
var ErrInvalid = errors.New("lines are invalid")

// ErrChanged says that an unfinished run cannot be continued, because its input is not what it was.
var ErrChanged = errors.New("the input is not the one that this run began with")

// Run is one run of a file. It keeps no more in memory than a window of the input, the lines in flight
// and one bit for each line, however long the file is.
type Run struct {
	js  jetstream.JetStream
	cfg RunConfig

	began atomic.Bool
	mu    sync.Mutex
	look  func() Progress
	batch string
}

// NewRun returns a run. It does no I/O.
func NewRun(js jetstream.JetStream, cfg RunConfig) (*Run, error) {
	cfg.Tenant = cmp.Or(cfg.Tenant, "default")
	cfg.Input, cfg.Output = cmp.Or(cfg.Input, Stdio), cmp.Or(cfg.Output, Stdio)
	if cfg.Errors == cfg.Output {
		cfg.Errors = ""
	}
	var faults []error
	if err := schemas.CheckToken(cfg.Tenant); err != nil {
		faults = append(faults, fmt.Errorf("Tenant %w", err))
	}
	if cfg.Input == Stdio && cfg.Stdin == nil {
		faults = append(faults, fmt.Errorf("Input is %q, and Stdin is nil; want a reader", Stdio))
	}
	if (cfg.Output == Stdio || cfg.Errors == Stdio) && cfg.Stdout == nil {
		faults = append(faults, fmt.Errorf("Output or Errors is %q, and Stdout is nil; want a writer", Stdio))
	}
	if cfg.Input != Stdio && (cfg.Input == cfg.Output || cfg.Input == cfg.Errors) {
		faults = append(faults, fmt.Errorf("Input is %q, and so is Output or Errors; want another file", cfg.Input))
	}
	if cfg.Endpoint != "" && !cfg.Endpoint.Valid() {
		faults = append(faults, fmt.Errorf("Endpoint is %q; want %s or %s", cfg.Endpoint, schemas.ChatCompletions, schemas.Completions))
	}
	if cfg.InFlight < 0 {
		faults = append(faults, fmt.Errorf("InFlight is %d; want 0 or more", cfg.InFlight))
	}
	if cfg.Sweep < 0 {
		faults = append(faults, fmt.Errorf("Sweep is %s; want 0 or more", cfg.Sweep))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("batch: %w", err)
	}
	return &Run{js: js, cfg: cfg, look: func() Progress { return Progress{} }}, nil
}

// Progress is how far the run has come. It may be asked for at any time, by anybody.
func (r *Run) Progress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.look()
}

// Batch is the id of the batch, once Run has opened its files.
func (r *Run) Batch() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.batch
}

// Run runs the file until every line has a record, and returns nil then, whatever became of the lines: [Run.Progress]
// tells. If ctx ends first, the lines in flight go on, and their Results wait for the run that continues this one. It is called once.
func (r *Run) Run(ctx context.Context) error {
	if r.began.Swap(true) {
		return errors.New("batch: a Run runs once")
	}
	models, err := queue.Models(ctx, r.js)
	if err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	rules := Rules{Models: models, Endpoint: r.cfg.Endpoint, MaxBody: r.cfg.MaxBody}
	t, err := r.open()
	if err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	err = r.run(ctx, t, rules)
	return errors.Join(err, t.close())
}

// run runs what t has opened.
func (r *Run) run(ctx context.Context, t *task, rules Rules) error {
	if t.over() {
		r.show(func() Progress { return t.before })
		return nil
	}
	in, err := t.input(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = in.remove() }() // a temporary file that stays is the system's to remove
	var found Summary
	if !r.cfg.SkipValidation {
		if found, err = r.validate(ctx, in, t, rules); err != nil {
			return err
		}
		rules.Endpoint = found.Endpoint
		t.before.Total = found.Lines
	}
	if err := t.begin(found); err != nil {
		return err
	}
	if t.journal.Endpoint != "" {
		rules.Endpoint = t.journal.Endpoint
	}
	client, err := producer.New(r.js.Conn(), producer.Config{
		Tenant: r.cfg.Tenant, Domain: r.js.Options().Domain, APIPrefix: apiPrefix(r.js), MaxBodyBytes: r.cfg.MaxBody,
	})
	if err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	defer func() { _ = client.Close() }() // has no subscriptions
	w := &work{
		batch: t.journal.Batch, tenant: r.cfg.Tenant, round: t.journal.Round, rules: rules, client: client,
		open: in.open, live: in.live(), skip: &t.done, repeated: &found.repeated, sink: t.sink,
		progress: progress{p: t.before},
	}
	t.sink = nil // the engine closes it
	if err := r.drive(ctx, w); err != nil {
		return err
	}
	return t.complete()
}

// drive runs an engine until its one batch is over.
func (r *Run) drive(ctx context.Context, w *work) error {
	e := newEngine(r.js, engineConfig{
		subject: schemas.EventsOfClient(w.tenant, w.client.Name()), inFlight: r.cfg.InFlight, sweep: r.cfg.Sweep,
	})
	r.show(func() Progress { return e.look(w) })
	running, stop := context.WithCancelCause(ctx)
	ended := make(chan error, 1)
	go func() { ended <- e.run(running) }()
	if !e.add(ctx, w) {
		stop(nil)
		return errors.Join(<-ended, context.Cause(ctx), w.sink.close(context.WithoutCancel(ctx)))
	}
	<-w.done
	stop(nil)
	return errors.Join(w.err, <-ended)
}

func (r *Run) show(look func() Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look = look
}

// validate reads the whole input before any of it runs.
func (r *Run) validate(ctx context.Context, in *input, t *task, rules Rules) (Summary, error) {
	src, err := in.open(ctx)
	if err != nil {
		return Summary{}, err
	}
	defer src.Close()
	found, err := Validate(ctx, src, rules, func(f *LineError) error {
		if r.cfg.Invalid != nil {
			r.cfg.Invalid(f)
		}
		return nil
	})
	if err != nil {
		return found, fmt.Errorf("validate %s: %w", r.cfg.Input, err)
	}
	if r.cfg.Validated != nil {
		r.cfg.Validated(found)
	}
	switch {
	case t.journal.SHA256 != "" && t.journal.SHA256 != found.SHA256:
		return found, fmt.Errorf("%w: its SHA-256 is %.16s..., and was %.16s...: restart it, or choose another output", ErrChanged, found.SHA256, t.journal.SHA256)
	case r.cfg.Strict && found.Invalid > 0:
		return found, fmt.Errorf("%w: %d of %d", ErrInvalid, found.Invalid, found.Lines)
	}
	return found, nil
}

// apiPrefix is what a JetStream context was given to put before its API subjects; not with a domain, which implies one.
func apiPrefix(js jetstream.JetStream) string {
	o := js.Options()
	if o.Domain != "" || o.APIPrefix == jetstream.DefaultAPIPrefix {
		return ""
	}
	return o.APIPrefix
}

// input is where a run reads. What comes over stdin and is to be validated first is kept in a temporary file.
type input struct {
	path   string
	stream io.Reader
	spool  *os.File
}

func (in *input) live() bool { return in.stream != nil }

func (in *input) open(context.Context) (io.ReadCloser, error) {
	if in.stream != nil {
		return io.NopCloser(in.stream), nil
	}
	return os.Open(in.path)
}

func (in *input) remove() error {
	if in.spool == nil {
		return nil
	}
	return errors.Join(in.spool.Close(), os.Remove(in.spool.Name()))
}
