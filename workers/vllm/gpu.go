package vllm

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	gpuInterval = 10 * time.Second
	gpuTimeout  = 5 * time.Second
	gpuProgram  = "nvidia-smi"
	maxGPUBytes = 64 << 10
)

// GPU is one reading of a graphics processor that the engine may use. What the driver does not say is -1.
type GPU struct {
	Index, Name string
	// MemoryUsed and MemoryTotal are in bytes.
	MemoryUsed, MemoryTotal int64
	// Utilization is from 0 to 1.
	Utilization float64
}

// watchGPUs reads the GPUs every 10 s until ctx ends. nvidia-smi is asked and not the driver's
// library: that could not be loaded by a static binary. Why there is no reading is said once.
func (s *Server) watchGPUs(ctx context.Context, env []string) {
	tick := time.NewTicker(gpuInterval)
	defer tick.Stop()
	said := ""
	for {
		list, err := readGPUs(ctx, env)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errNoProgram):
			s.log.Info().Err(err).Msg("no GPU readings: they are read with " + gpuProgram)
			return
		case err == nil:
			said = ""
		case err.Error() != said:
			said = err.Error()
			s.log.Warn().Err(err).Msg("no GPU readings")
		}
		s.metrics.gpus(list)
		s.mu.Lock()
		s.status.GPUs = list
		s.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func readGPUs(ctx context.Context, env []string) ([]GPU, error) {
	program, err := findProgram(gpuProgram, env, "")
	if err != nil {
		return nil, err
	}
	argv := []string{program, "--query-gpu=index,name,memory.used,memory.total,utilization.gpu", "--format=csv,noheader,nounits"}
	if visible := lookup(env, "CUDA_VISIBLE_DEVICES"); visible != "" {
		argv = append(argv, "--id="+visible)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, gpuTimeout, fmt.Errorf("no answer within %s", gpuTimeout))
	defer cancel()
	out, err := output(ctx, "", env, maxGPUBytes, argv)
	if err != nil {
		return nil, err
	}
	return parseGPUs(out)
}

func parseGPUs(out string) ([]GPU, error) {
	in := csv.NewReader(strings.NewReader(out))
	in.TrimLeadingSpace = true
	in.FieldsPerRecord = 5
	in.LazyQuotes = true
	rows, err := in.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s answered what is no table: %w", gpuProgram, err)
	}
	list := make([]GPU, 0, len(rows))
	for _, row := range rows {
		// What a GPU does not support is "[N/A]" or the like.
		number := func(column int) float64 {
			n, err := strconv.ParseFloat(row[column], 64)
			if err != nil || n < 0 {
				return -1
			}
			return n
		}
		g := GPU{Index: row[0], Name: row[1], MemoryUsed: -1, MemoryTotal: -1, Utilization: -1}
		if n := number(2); n >= 0 {
			g.MemoryUsed = int64(n) << 20
		}
		if n := number(3); n >= 0 {
			g.MemoryTotal = int64(n) << 20
		}
		if n := number(4); n >= 0 {
			g.Utilization = n / 100
		}
		list = append(list, g)
	}
	return list, nil
}
