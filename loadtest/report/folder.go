package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hxp-enterprise/hxp/loadtest"
)

// The files of a folder of results.
const (
	SummaryFile     = "summary.json"
	RequestsFile    = "requests.jsonl"
	EnvironmentFile = "environment.json"
	PageFile        = "report.html"
)

// maxFileBytes bounds what is read of one file.
const maxFileBytes = 64 << 20

// Run is what a folder holds of a run.
type Run struct {
	Dir         string
	Summary     *loadtest.Summary
	Environment *loadtest.Environment
}

// Save writes a folder's files, but for the requests.
func Save(dir string, s *loadtest.Summary, e *loadtest.Environment) error {
	for _, f := range []struct {
		name string
		v    any
	}{{SummaryFile, s}, {EnvironmentFile, e}} {
		data, err := json.MarshalIndent(f.v, "", "  ")
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, f.name), append(data, '\n'), 0o644); err != nil {
			return err
		}
	}
	var page bytes.Buffer
	if err := HTML(&page, s, e); err != nil {
		return fmt.Errorf("%s: %w", PageFile, err)
	}
	return os.WriteFile(filepath.Join(dir, PageFile), page.Bytes(), 0o644)
}

// Load reads a folder.
func Load(dir string) (*Run, error) {
	r := &Run{Dir: dir, Summary: &loadtest.Summary{}, Environment: &loadtest.Environment{}}
	for _, f := range []struct {
		name string
		v    any
	}{{SummaryFile, r.Summary}, {EnvironmentFile, r.Environment}} {
		if err := read(filepath.Join(dir, f.name), f.v); err != nil {
			return nil, err
		}
	}
	if r.Summary.Format != loadtest.Format {
		return nil, fmt.Errorf("%s: format is %d; want %d", filepath.Join(dir, SummaryFile), r.Summary.Format, loadtest.Format)
	}
	return r, nil
}

func read(name string, v any) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it is only read
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return err
	}
	if len(data) > maxFileBytes {
		return fmt.Errorf("%s is longer than %d bytes", name, maxFileBytes)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
