package batch

import (
	"bufio"
	"bytes"
	"cmp"
	"container/heap"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// seenInMemory is how many custom_ids are remembered in memory, at 24 bytes each, before they go to disk.
const seenInMemory = 256 << 10

// seenLen is what an entry takes on disk.
const seenLen = 24

// seen is one custom_id and the line that has it.
type seen struct {
	hash [16]byte
	line int64
}

func (a seen) compare(b seen) int {
	return cmp.Or(bytes.Compare(a.hash[:], b.hash[:]), cmp.Compare(a.line, b.line))
}

// duplicates finds the lines whose custom_id an earlier line has, in bounded memory: what does not fit is
// written to a temporary file in sorted runs, and merged at the end.
type duplicates struct {
	most    int
	entries []seen
	file    *os.File
	runs    []int64 // where each run ends
}

func newDuplicates(most int) *duplicates { return &duplicates{most: most} }

// add notes a line's custom_id.
func (d *duplicates) add(customID string, line int64) error {
	sum := sha256.Sum256([]byte(customID))
	d.entries = append(d.entries, seen{hash: [16]byte(sum[:16]), line: line})
	if len(d.entries) < d.most {
		return nil
	}
	if err := d.spill(); err != nil {
		return fmt.Errorf("look for lines with the same custom_id: %w", err)
	}
	return nil
}

func (d *duplicates) spill() error {
	if d.file == nil {
		f, err := os.CreateTemp("", "hxp-batch-*")
		if err != nil {
			return err
		}
		d.file = f
	}
	slices.SortFunc(d.entries, seen.compare)
	w := bufio.NewWriter(d.file)
	for _, e := range d.entries {
		_, _ = w.Write(e.hash[:]) // Flush reports the first failure
		_, _ = w.Write(binary.BigEndian.AppendUint64(nil, uint64(e.line)))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	end := int64(len(d.entries)) * seenLen
	if len(d.runs) > 0 {
		end += d.runs[len(d.runs)-1]
	}
	d.runs = append(d.runs, end)
	d.entries = d.entries[:0]
	return nil
}

// close removes the temporary file.
func (d *duplicates) close() error {
	if d.file == nil {
		return nil
	}
	return errors.Join(d.file.Close(), os.Remove(d.file.Name()))
}

// find calls found for each line whose custom_id an earlier line has, which is first. The lines come in no order.
func (d *duplicates) find(found func(line, first int64) error) error {
	slices.SortFunc(d.entries, seen.compare)
	runs := runHeap{{next: memoryRun(d.entries)}}
	start := int64(0)
	for _, end := range d.runs {
		r := bufio.NewReader(io.NewSectionReader(d.file, start, end-start))
		runs = append(runs, &run{next: fileRun(r)})
		start = end
	}
	ready := runs[:0]
	for _, r := range runs {
		ok, err := r.advance()
		if err != nil {
			return err
		}
		if ok {
			ready = append(ready, r)
		}
	}
	runs = ready
	heap.Init(&runs)
	var first seen
	for len(runs) > 0 {
		r := runs[0]
		if r.head.hash == first.hash && first.line > 0 {
			if err := found(r.head.line, first.line); err != nil {
				return err
			}
		} else {
			first = r.head
		}
		ok, err := r.advance()
		switch {
		case err != nil:
			return err
		case ok:
			heap.Fix(&runs, 0)
		default:
			heap.Pop(&runs)
		}
	}
	return nil
}

// run is one sorted run and its first entry.
type run struct {
	head seen
	next func() (seen, bool, error)
}

func (r *run) advance() (ok bool, err error) {
	r.head, ok, err = r.next()
	return ok, err
}

func memoryRun(entries []seen) func() (seen, bool, error) {
	return func() (e seen, ok bool, err error) {
		if len(entries) == 0 {
			return e, false, nil
		}
		e, entries = entries[0], entries[1:]
		return e, true, nil
	}
}

func fileRun(r io.Reader) func() (seen, bool, error) {
	return func() (e seen, ok bool, err error) {
		var buf [seenLen]byte
		switch _, err := io.ReadFull(r, buf[:]); {
		case errors.Is(err, io.EOF):
			return e, false, nil
		case err != nil:
			return e, false, fmt.Errorf("look for lines with the same custom_id: %w", err)
		}
		e.hash, e.line = [16]byte(buf[:16]), int64(binary.BigEndian.Uint64(buf[16:]))
		return e, true, nil
	}
}

type runHeap []*run

func (h runHeap) Len() int           { return len(h) }
func (h runHeap) Less(i, j int) bool { return h[i].head.compare(h[j].head) < 0 }
func (h runHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push is not used: no run is added later on.
func (h *runHeap) Push(x any) { *h = append(*h, x.(*run)) }

// Pop implements heap.Interface.
func (h *runHeap) Pop() any {
	old := *h
	r := old[len(old)-1]
	*h = old[:len(old)-1]
	return r
}
