package loadtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Bounds of what is read from a dataset's file.
const (
	maxDatasetBytes = 2 << 30
	maxLineBytes    = 64 << 20
	maxPrompts      = 1_000_000
)

// recorded are prompts from a file. Request n takes the n-th, round and round, from a place that the
// order of the file does not tell: a file sorted by length would otherwise make the load grow.
type recorded struct {
	name    string
	prompts []Prompt
}

func (d *recorded) Name() string { return d.name }

func (d *recorded) Prompt(n int, _ *rand.Rand) Prompt {
	return d.prompts[n%len(d.prompts)]
}

// shuffled puts the prompts into an order of the seed's.
func (d *recorded) shuffled(seed uint64) (*recorded, error) {
	if len(d.prompts) == 0 {
		return nil, fmt.Errorf("%s: it holds no prompt that can be used", d.name)
	}
	r := rand.New(rand.NewPCG(seed, 0))
	r.Shuffle(len(d.prompts), func(i, j int) { d.prompts[i], d.prompts[j] = d.prompts[j], d.prompts[i] })
	return d, nil
}

// lines calls f for every line that is not empty.
func lines(in io.Reader, f func(line []byte) error) error {
	limited := &io.LimitedReader{R: in, N: maxDatasetBytes}
	s := bufio.NewScanner(limited)
	s.Buffer(make([]byte, 0, 64<<10), maxLineBytes)
	n := 0
	for s.Scan() {
		n++
		line := bytes.TrimSpace(s.Bytes())
		if len(line) == 0 {
			continue
		}
		if n > maxPrompts {
			return fmt.Errorf("line %d: want at most %d lines", n, maxPrompts)
		}
		if err := f(line); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	if errors.Is(s.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("line %d is longer than %d bytes", n+1, maxLineBytes)
	}
	if s.Err() == nil && limited.N == 0 {
		return fmt.Errorf("it is longer than %d bytes", maxDatasetBytes)
	}
	return s.Err()
}

// MTBench reads questions in MT-Bench's form: a line each with "turns". first keeps the first turn alone.
func MTBench(in io.Reader, seed uint64, first bool) (Dataset, error) {
	d := &recorded{name: "mt_bench"}
	err := lines(in, func(line []byte) error {
		var q struct {
			Turns []string `json:"turns"`
		}
		if err := json.Unmarshal(line, &q); err != nil {
			return err
		}
		if len(q.Turns) == 0 {
			return errors.New("turns is missing or empty")
		}
		if first {
			q.Turns = q.Turns[:1]
		}
		d.prompts = append(d.prompts, Prompt{Turns: q.Turns})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("mt_bench: %w", err)
	}
	return d.shuffled(seed)
}

// BatchFile reads requests in the form of OpenAI's batch files: a line each with "url" and "body".
// What the body says of model and streaming is replaced by the workload's own.
func BatchFile(in io.Reader, seed uint64) (Dataset, error) {
	d := &recorded{name: "batch"}
	err := lines(in, func(line []byte) error {
		var q struct {
			URL  schemas.Endpoint `json:"url"`
			Body json.RawMessage  `json:"body"`
		}
		if err := json.Unmarshal(line, &q); err != nil {
			return err
		}
		if !q.URL.Valid() {
			return fmt.Errorf("url is %.80q; want %s or %s", q.URL, schemas.ChatCompletions, schemas.Completions)
		}
		if body := bytes.TrimSpace(q.Body); len(body) == 0 || body[0] != '{' {
			return errors.New("body is not a JSON object")
		}
		d.prompts = append(d.prompts, Prompt{Body: q.Body, Endpoint: q.URL})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("batch: %w", err)
	}
	return d.shuffled(seed)
}
