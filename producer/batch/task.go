package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// task is the files of a run: what an earlier run has left in them, and where this one goes on.
type task struct {
	cfg     *RunConfig
	journal *journal
	path    string // of the journal; "" if there is none
	fresh   bool   // the journal has not been written yet
	before  Progress
	done    bitmap
	sink    *files
	output  *os.File
}

// open opens the files, and finds out what they hold.
func (r *Run) open() (*task, error) {
	t := &task{cfg: &r.cfg, sink: &files{}}
	if err := t.open(); err != nil {
		return nil, errors.Join(err, t.close())
	}
	r.mu.Lock()
	r.batch = t.journal.Batch
	r.mu.Unlock()
	return t, nil
}

func (t *task) open() error {
	if err := t.openJournal(); err != nil {
		return err
	}
	var err error
	if t.sink.out, err = t.openOne(t.cfg.Output, t.output); err != nil {
		return err
	}
	if t.sink.errs = t.sink.out; t.cfg.Errors != "" {
		t.sink.errs, err = t.openOne(t.cfg.Errors, nil)
	}
	t.before.Resumed = t.before.Completed + t.before.Failed
	return err
}

// openJournal locks the output, and reads what is known of an earlier run into it.
func (t *task) openJournal() (err error) {
	if t.cfg.Output != Stdio {
		if t.output, err = os.OpenFile(t.cfg.Output, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
			return err
		}
		if err := lockFile(t.output); err != nil {
			return err
		}
		t.path = t.cfg.Output + journalSuffix
		if !t.cfg.Restart {
			if t.journal, err = readJournal(t.path); err != nil {
				return err
			}
		}
	}
	if t.journal == nil {
		id, err := NewID()
		if err != nil {
			return err
		}
		t.fresh = true
		t.journal = &journal{Batch: id, Tenant: t.cfg.Tenant, Errors: t.cfg.Errors, Endpoint: t.cfg.Endpoint, Started: time.Now().UTC()}
		return nil
	}
	switch {
	case t.journal.Tenant != t.cfg.Tenant:
		return fmt.Errorf("%s is of a run of tenant %q; this is %q: restart it, or choose another output", t.path, t.journal.Tenant, t.cfg.Tenant)
	case t.journal.Errors != t.cfg.Errors:
		return fmt.Errorf("%s is of a run with the error file %q; this has %q: restart it, or choose another output", t.path, t.journal.Errors, t.cfg.Errors)
	}
	if t.cfg.RetryFailed && !t.journal.Completed.IsZero() {
		if t.journal.Round == maxRounds {
			return fmt.Errorf("%s has been retried %d times; want at most %d", t.path, t.journal.Round, maxRounds)
		}
		t.journal.Round++
		t.journal.Completed = time.Time{}
		return t.journal.write(t.path)
	}
	return nil
}

// openOne opens one file of records, and counts those that count. have is the file if it is open already.
func (t *task) openOne(path string, have *os.File) (io.Writer, error) {
	if path == Stdio {
		return t.cfg.Stdout, nil
	}
	f := have
	if f == nil {
		opened, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		f = opened
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !info.Mode().IsRegular() {
		t.sink.others = append(t.sink.others, f)
		return f, nil
	}
	t.sink.regular = append(t.sink.regular, f)
	switch {
	case t.fresh && t.cfg.Restart:
		err = f.Truncate(0)
	case t.fresh && info.Size() > 0:
		err = fmt.Errorf("%s: %w: restart to overwrite it, or choose another", path, ErrNotEmpty)
	}
	if err != nil {
		return nil, err
	}
	return f, t.resume(f)
}

// resume counts the records of a file, and leaves it ready for more: a torn record at its end is cut off.
func (t *task) resume(f *os.File) error {
	mine := tag(t.journal.Batch)
	whole, err := scanRecords(f, func(m mark, start, _ int64) error {
		if m.tag != mine {
			return fmt.Errorf("the record at byte %d is of another batch", start)
		}
		t.count(m)
		return nil
	})
	if err == nil {
		err = f.Truncate(whole)
	}
	if err == nil {
		_, err = f.Seek(whole, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	return nil
}

func (t *task) count(m mark) {
	switch {
	case m.failed && m.round < t.journal.Round:
	case !t.done.add(m.line):
	case m.failed:
		t.before.Failed++
	default:
		t.before.Completed++
	}
}

// over reports whether every line has its record.
func (t *task) over() bool {
	t.before.Total = t.before.Done()
	return !t.journal.Completed.IsZero()
}

// begin writes the journal before the first line runs.
func (t *task) begin(found Summary) error {
	t.before.Total = found.Lines
	if t.path == "" || !t.fresh {
		return nil
	}
	t.journal.SHA256, t.journal.Endpoint = found.SHA256, cmp.Or(found.Endpoint, t.journal.Endpoint)
	return t.journal.write(t.path)
}

// complete notes that every line has its record.
func (t *task) complete() error {
	if t.path == "" {
		return nil
	}
	// What is no file, a device or a stream, has nothing to be rewritten.
	if path := cmp.Or(t.cfg.Errors, t.cfg.Output); t.journal.Round > 0 && regular(path) {
		if err := compact(path, t.journal.Round); err != nil {
			return err
		}
	}
	t.journal.Completed = time.Now().UTC()
	return t.journal.write(t.path)
}

func regular(path string) bool {
	info, err := os.Lstat(path)
	return path != Stdio && err == nil && info.Mode().IsRegular()
}

// close closes the files, unless the engine has.
func (t *task) close() error {
	switch {
	case t.sink == nil:
		return nil
	case t.sink.out == nil && t.output != nil && !slices.Contains(t.sink.regular, t.output):
		return t.output.Close()
	default:
		return t.sink.close(context.Background())
	}
}

// input opens what is read. A stream that is validated first is copied to a temporary file.
func (t *task) input(ctx context.Context) (*input, error) {
	if t.cfg.Input != Stdio {
		return &input{path: t.cfg.Input}, nil
	}
	if t.cfg.SkipValidation {
		return &input{stream: t.cfg.Stdin}, nil
	}
	f, err := os.CreateTemp("", "hxp-batch-*.jsonl")
	if err != nil {
		return nil, err
	}
	in := &input{path: f.Name(), spool: f}
	if _, err := io.Copy(f, contextReader{ctx, t.cfg.Stdin}); err != nil {
		return nil, errors.Join(fmt.Errorf("keep the input: %w", err), in.remove())
	}
	return in, nil
}

// contextReader ends with its context, between two reads.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
