package app_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/loadtest"
)

// few is a load test that takes no time.
func few(t *testing.T, targets ...string) app.LoadtestOptions {
	t.Helper()
	return app.LoadtestOptions{
		Targets: targets, Up: true, Out: filepath.Join(t.TempDir(), "out"), Connections: 2,
		Workload: loadtest.Workload{
			Dataset: loadtest.Random{Input: 2, Output: 2}, Mix: loadtest.Mix{Models: []loadtest.Weighted{{Name: "phi3"}}},
			Stages: []loadtest.Stage{{Concurrency: 2, Requests: 4}},
		},
	}
}

func TestALoadTestLeavesItsResultsAndNothingElse(t *testing.T) {
	t.Parallel()
	o := few(t, loadtest.Direct, loadtest.Queue)
	o.Workload.Rounds = 1
	s, err := app.Loadtest(t.Context(), quick(t), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Totals) != 2 || s.Totals[0].Completed != 4 || s.Totals[1].Completed != 4 {
		t.Errorf("totals %+v", s.Totals)
	}
	for _, name := range []string{"summary.json", "requests.jsonl", "environment.json", "report.html", "up.log"} {
		if info, err := os.Stat(filepath.Join(o.Out, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func TestALoadTestThatCannotStartSaysWhy(t *testing.T) {
	t.Parallel()
	taken := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(taken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stopped, stop := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	stop(why)
	for _, c := range []struct {
		name   string
		ctx    context.Context
		change func(*app.Config, *app.LoadtestOptions)
		is     error
		says   string
	}{
		{"a folder that is a file", t.Context(), func(_ *app.Config, o *app.LoadtestOptions) { o.Out = taken }, nil, "folder for the results"},
		{"a target that is none", t.Context(), func(_ *app.Config, o *app.LoadtestOptions) { o.Targets = []string{"moon"} }, app.ErrUsage, `"moon"`},
		{"an engine that cannot listen", t.Context(), func(c *app.Config, _ *app.LoadtestOptions) { c.Network.Internal.Localhost = "256.0.0.1" }, nil, "simulated engine of phi3"},
		{"stopped before it starts", stopped, func(*app.Config, *app.LoadtestOptions) {}, why, "enough"},
		{"a log that is a folder", t.Context(), func(_ *app.Config, o *app.LoadtestOptions) {
			if err := os.MkdirAll(filepath.Join(o.Out, "up.log"), 0o755); err != nil {
				t.Error(err)
			}
		}, nil, "is a directory"},
		{"requests that are a folder", t.Context(), func(_ *app.Config, o *app.LoadtestOptions) {
			if err := os.MkdirAll(filepath.Join(o.Out, "requests.jsonl"), 0o755); err != nil {
				t.Error(err)
			}
		}, nil, "is a directory"},
		{"a profile that is a folder", t.Context(), func(_ *app.Config, o *app.LoadtestOptions) {
			o.CPUProfile = true
			if err := os.MkdirAll(filepath.Join(o.Out, "cpu.pprof"), 0o755); err != nil {
				t.Error(err)
			}
		}, nil, "is a directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg, o := quick(t), few(t, loadtest.Queue)
			c.change(cfg, &o)
			_, err := app.Loadtest(c.ctx, cfg, o)
			wantError(t, err, c.is, c.says)
		})
	}
}

// TestOneProfileAtATime is not parallel: a process has one.
func TestOneProfileAtATime(t *testing.T) {
	o := few(t, loadtest.Queue)
	o.CPUProfile = true
	if _, err := app.Loadtest(t.Context(), quick(t), o); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(o.Out, "cpu.pprof")); err != nil || info.Size() == 0 {
		t.Errorf("profile: %v, %v", info, err)
	}
}
