package vllm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/hxp-enterprise/hxp/workers"
)

const (
	// maxSeries bounds one line of a report; cache_config_info, the longest, has about 1 KiB.
	maxSeries = 64 << 10
	// maxModels bounds how many models' series one report may hold.
	maxModels = 64
)

var seriesPrefix = []byte("vllm:")

// report is what /metrics says, by the series' model_name: "" for series without one.
type report map[string]*tally

// tally is one model's load while its series are read. Older names are kept apart, since versions
// that rename a series export it under both names for a while.
type tally struct {
	load    workers.Load
	swapped int     // of engines before V1: sequences that were moved out of the cache, and wait
	oldKV   float64 // gpu_cache_usage_perc
	counted bool    // it has more than the cache's configuration
}

// readMetrics reads the series that tell an engine's load from a report of at most limit bytes.
func readMetrics(r io.Reader, limit int) (report, error) {
	bounded := &io.LimitedReader{R: r, N: int64(limit) + 1}
	lines := bufio.NewScanner(bounded)
	lines.Buffer(make([]byte, 0, 4<<10), maxSeries)
	all := report{}
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if !bytes.HasPrefix(line, seriesPrefix) {
			continue // comments, and series of others
		}
		if err := all.add(line[len(seriesPrefix):]); err != nil {
			return nil, err
		}
	}
	switch err := lines.Err(); {
	case bounded.N <= 0:
		return nil, fmt.Errorf("%w than %d bytes", errTooLong, limit)
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("a line of %w than %d bytes", errTooLong, maxSeries)
	case err != nil:
		return nil, err
	}
	return all, nil
}

// add takes in one line, its prefix cut off. Series that are not wanted are not looked at further.
func (all report) add(line []byte) error {
	end := bytes.IndexAny(line, "{ \t")
	if end < 0 {
		return nil
	}
	name := string(line[:end])
	if !wanted(name) {
		return nil
	}
	s, err := parseSeries(line[end:])
	if err != nil {
		return fmt.Errorf("series vllm:%s: %w", name, err)
	}
	t := all[s.model]
	if t == nil {
		if len(all) == maxModels {
			return fmt.Errorf("series of more than %d models", maxModels)
		}
		t = &tally{load: workers.Load{KVCache: -1}, oldKV: -1}
		all[s.model] = t
	}
	t.add(name, s)
	return nil
}

func wanted(name string) bool {
	switch name {
	case "num_requests_running", "num_requests_waiting", "num_requests_swapped", "kv_cache_usage_perc", "gpu_cache_usage_perc",
		"num_preemptions_total", "prompt_tokens_total", "generation_tokens_total", "cache_config_info":
		return true
	}
	return false
}

func (t *tally) add(name string, s series) {
	t.counted = t.counted || name != "cache_config_info"
	switch name {
	case "num_requests_running":
		t.load.Running += int(s.count())
	case "num_requests_waiting":
		t.load.Waiting += int(s.count())
	case "num_requests_swapped":
		t.swapped += int(s.count())
	case "kv_cache_usage_perc":
		t.load.KVCache = max(t.load.KVCache, s.ratio())
	case "gpu_cache_usage_perc":
		t.oldKV = max(t.oldKV, s.ratio())
	case "num_preemptions_total":
		t.load.Preemptions += s.count()
	case "prompt_tokens_total":
		t.load.PromptTokens += s.count()
	case "generation_tokens_total":
		t.load.GeneratedTokens += s.count()
	case "cache_config_info":
		if n := s.kvTokens(); n > 0 && (t.load.KVTokens == 0 || n < t.load.KVTokens) {
			t.load.KVTokens = n
		}
	}
}

// of returns the load of one model: its own series if there are any, otherwise those of all, which
// may well bear another of its names. Series without a model belong to every one.
func (all report) of(model string) (workers.Load, bool) {
	own := all[model]
	only := model != "" && own != nil && own.counted
	sum := workers.Load{KVCache: -1}
	counted := false
	for name, t := range all {
		if only && name != model && name != "" {
			continue
		}
		counted = counted || t.counted
		l := t.load
		if l.KVCache < 0 {
			l.KVCache = t.oldKV
		}
		sum.Running += l.Running
		sum.Waiting += l.Waiting + t.swapped
		sum.KVCache = max(sum.KVCache, l.KVCache)
		if l.KVTokens > 0 && (sum.KVTokens == 0 || l.KVTokens < sum.KVTokens) {
			sum.KVTokens = l.KVTokens
		}
		sum.Preemptions += l.Preemptions
		sum.PromptTokens += l.PromptTokens
		sum.GeneratedTokens += l.GeneratedTokens
	}
	return sum, counted
}

// series is one line of the text format: its value, and the labels that matter.
type series struct {
	value                               float64
	model                               string
	poolTokens, blocks, block, windowed string
}

// maxCount bounds a value: sums of many ranks stay far from overflow.
const maxCount = 1 << 52

// count is the value as a count. An engine that says nonsense says 0.
func (s series) count() uint64 {
	if !(s.value > 0) {
		return 0
	}
	return uint64(min(s.value, maxCount))
}

// ratio is the value as a part of one, or -1 if it is none.
func (s series) ratio() float64 {
	if math.IsNaN(s.value) || s.value < 0 {
		return -1
	}
	return min(s.value, 1)
}

// kvTokens is the size of the KV cache that cache_config_info tells, or 0. Blocks say nothing where
// a sliding window has the cache hold more context than its blocks have tokens.
func (s series) kvTokens() int {
	const most = 1 << 40
	if n, err := strconv.Atoi(s.poolTokens); err == nil && n > 0 && n < most {
		return n
	}
	blocks, err := strconv.Atoi(s.blocks)
	size, err2 := strconv.Atoi(s.block)
	if err != nil || err2 != nil || blocks <= 0 || size <= 0 || blocks >= most || size >= 1<<20 {
		return 0
	}
	if w := s.windowed; w != "" && w != "None" {
		return 0
	}
	return blocks * size
}

var errSeries = errors.New("is not of the text format")

// parseSeries reads what follows a series' name: labels, a value and perhaps a time.
func parseSeries(b []byte) (series, error) {
	var s series
	if b[0] == '{' {
		b = b[1:]
		for {
			b = bytes.TrimLeft(b, ", \t")
			if len(b) > 0 && b[0] == '}' {
				b = b[1:]
				break
			}
			name, rest, _ := bytes.Cut(b, []byte("="))
			rest, quoted := bytes.CutPrefix(bytes.TrimLeft(rest, " \t"), []byte(`"`))
			value, rest, closed := labelValue(rest)
			if len(name) == 0 || !quoted || !closed {
				return s, errSeries
			}
			s.label(string(bytes.TrimSpace(name)), value)
			b = rest
		}
	}
	fields := bytes.Fields(b)
	if len(fields) == 0 || len(fields) > 2 {
		return s, errSeries
	}
	v, err := strconv.ParseFloat(string(fields[0]), 64)
	if err != nil {
		return s, errSeries
	}
	s.value = v
	return s, nil
}

func (s *series) label(name, value string) {
	switch name {
	case "model_name":
		s.model = value
	case "kv_cache_size_tokens":
		s.poolTokens = value
	case "num_gpu_blocks":
		s.blocks = value
	case "block_size":
		s.block = value
	case "sliding_window":
		s.windowed = value
	}
}

// labelValue reads up to the closing quote and returns what comes after it.
func labelValue(b []byte) (value string, rest []byte, ok bool) {
	end := bytes.IndexAny(b, `"\`)
	if end < 0 {
		return "", nil, false
	}
	if b[end] == '"' {
		return string(b[:end]), b[end+1:], true
	}
	var out []byte
	for i := 0; i < len(b); i++ {
		switch {
		case b[i] == '"':
			return string(out), b[i+1:], true
		case b[i] != '\\':
			out = append(out, b[i])
		case i+1 == len(b):
			return "", nil, false
		default:
			i++
			if b[i] == 'n' {
				out = append(out, '\n')
			} else {
				out = append(out, b[i])
			}
		}
	}
	return "", nil, false
}
