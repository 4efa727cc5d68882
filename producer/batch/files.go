package batch

import (
	"context"
	"errors"
	"io"
	"os"
)

// ErrLocked says that another process writes the output.
var ErrLocked = errors.New("another run writes this output")

// ErrNotEmpty says that an output has something in it that is no earlier part of this run.
var ErrNotEmpty = errors.New("the output has something in it, and no journal of an unfinished run is beside it")

// files is the sink of a run: its output and its error file. A record is one write, so that a
// writer that is killed leaves at most one torn record, at the end.
type files struct {
	out, errs io.Writer
	regular   []*os.File
	others    []*os.File // devices and pipes, which no disk stores
}

func (f *files) put(line []byte, r *record) error {
	w := f.out
	if r.failed() {
		w = f.errs
	}
	_, err := w.Write(line)
	return err
}

// full is never set: put has written when it returns.
func (f *files) full() bool { return false }

// close has the disk store what was written.
func (f *files) close(context.Context) error {
	var errs []error
	for _, c := range f.regular {
		errs = append(errs, c.Sync(), c.Close())
	}
	for _, c := range f.others {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// compact rewrites a file of records without the failures of earlier rounds, as nothing else of them counts any more.
func compact(path string, round int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it is only read
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	return replaceFile(path, func(w io.Writer) error {
		_, err := scanRecords(f, func(m mark, start, size int64) error {
			if m.failed && m.round < round {
				return nil
			}
			_, err := io.Copy(w, io.NewSectionReader(in, start, size))
			return err
		})
		return err
	})
}
