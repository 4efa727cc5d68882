package batch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
)

// journalSuffix is added to the output's name.
const journalSuffix = ".hxp"

// maxJournal bounds a journal before it is read.
const maxJournal = 1 << 20

// journal is what the output itself does not tell of a run: whose it is, and of which input. It is replaced
// as a whole, so that it is whole whenever its writer is killed.
type journal struct {
	Batch string `json:"batch"`
	// Tenant and Errors are what a run is continued with.
	Tenant string `json:"tenant"`
	Errors string `json:"errors,omitempty"`
	// SHA256 is the digest of the input, if it was validated.
	SHA256   string           `json:"sha256,omitempty"`
	Endpoint schemas.Endpoint `json:"endpoint,omitempty"`
	// Round is how often failed lines have been tried again: records of failures of earlier rounds do not count.
	Round     int       `json:"round"`
	Started   time.Time `json:"started"`
	Completed time.Time `json:"completed,omitzero"`
}

// readJournal returns nil if there is none.
func readJournal(path string) (*journal, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it is only read
	data, err := io.ReadAll(io.LimitReader(f, maxJournal))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	j := new(journal)
	if err := json.Unmarshal(data, j); err != nil {
		return nil, fmt.Errorf("%s is not the journal of a run: %w", path, err)
	}
	if err := schemas.CheckToken(j.Batch); err != nil || j.Round < 0 || j.Round > maxRounds {
		return nil, fmt.Errorf("%s is not the journal of a run: batch is %.80q and round %d", path, j.Batch, j.Round)
	}
	return j, nil
}

func (j *journal) write(path string) error {
	data, _ := json.MarshalIndent(j, "", "  ") // texts, numbers and present times
	return replaceFile(path, func(w io.Writer) error {
		_, err := w.Write(append(data, '\n'))
		return err
	})
}

// replaceFile has a file hold what write writes, or what it held before.
func replaceFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := errors.Join(write(f), f.Sync(), f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
