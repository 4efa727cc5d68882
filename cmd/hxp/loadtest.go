package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/loadtest"
	"github.com/hxp-enterprise/hxp/loadtest/report"
)

func (c *cli) loadtestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "loadtest",
		Short: "Load the queue or an engine, and say what the queue costs",
		Long: `Sends a workload, the same for the same seed, through the queue, straight to an
OpenAI-compatible engine, or to both in turn, and leaves summary.json,
requests.jsonl, environment.json and report.html in a folder. Names and
definitions are those of vllm bench serve.`,
		Example: `  hxp loadtest compare --up --rate 500 --duration 10s`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.loadtestRunCommand(), c.loadtestCompareCommand(), c.loadtestReportCommand())
	return cmd
}

func (c *cli) loadtestRunCommand() *cobra.Command {
	f := &loadFlags{}
	target := loadtest.Queue
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Measure one way: through the queue, or straight to the engine",
		Example: `  hxp loadtest run --models phi3 --rate 20 --duration 1m
  hxp loadtest run --target direct --direct http://127.0.0.1:8000 --models phi3 --concurrency 64 --requests 1000
  hxp loadtest run --models phi3:3,hermes:1 --classes interactive:1,batch:4 --stage rate=10,for=30s --stage rate=10..50,for=1m
  hxp loadtest run --models phi3 --dataset sharegpt --dataset-path ShareGPT.json --rate 5 --duration 5m --goodput ttft:500 --goodput tpot:50`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if target != loadtest.Queue && target != loadtest.Direct {
				return fmt.Errorf("%w: --target %q is neither queue nor direct", app.ErrUsage, target)
			}
			return c.loadtest(cmd, f, []string{target})
		},
	}
	f.declare(c, cmd)
	cmd.Flags().StringVar(&target, "target", target, "`way` to measure: queue or direct")
	return cmd
}

func (c *cli) loadtestCompareCommand() *cobra.Command {
	f := &loadFlags{}
	cmd := &cobra.Command{
		Use:   "compare",
		Short: "Measure both ways in turn, and what the queue adds",
		Long: `Sends the same requests at the same times straight to the engine and through the
queue, in windows that alternate (direct, queue, queue, direct, ...), so that a
machine that grows slower favours neither. Figures are medians of the rounds.`,
		Example: `  hxp loadtest compare --up
  hxp loadtest compare --up --profile h100 --models mixtral:50,hermes:30,openchat:40,phi3:60 --rate 180 --duration 30s
  hxp loadtest compare --models phi3 --direct http://127.0.0.1:8000 --rate 50 --duration 1m`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.loadtest(cmd, f, []string{loadtest.Direct, loadtest.Queue})
		},
	}
	f.declare(c, cmd)
	return cmd
}

func (c *cli) loadtestReportCommand() *cobra.Command {
	var markdown bool
	cmd := &cobra.Command{
		Use:   "report DIR...",
		Short: "Draw the page of results again, or print their tables",
		Example: `  hxp loadtest report loadtest-20261123-101500
  hxp loadtest report --markdown .load/*/ > tables.md`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var runs []*report.Run
			for _, dir := range args {
				r, err := report.Load(dir)
				if err != nil {
					return fmt.Errorf("%w: %w", app.ErrUsage, err)
				}
				runs = append(runs, r)
			}
			if markdown {
				return report.Markdown(c.out.data, runs)
			}
			for _, r := range runs {
				if err := report.Save(r.Dir, r.Summary, r.Environment); err != nil {
					return err
				}
				c.out.say("%s\n", filepath.Join(r.Dir, report.PageFile))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&markdown, "markdown", false, "print tables in Markdown instead")
	return cmd
}

// loadtest runs a workload and prints what came of it.
func (c *cli) loadtest(cmd *cobra.Command, f *loadFlags, targets []string) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	o, err := f.options(cmd, targets, cfg.Tenant)
	if err != nil {
		return err
	}
	o.Version, o.Progress = versionOf(), c.progress
	ctx, cancel := c.bounded(cmd.Context(), 0)
	defer cancel()
	s, err := app.Loadtest(ctx, cfg, o)
	if s == nil {
		return err
	}
	if werr := c.out.one(s, func() error { return c.out.write(report.Text(s)) }); werr != nil {
		return werr
	}
	c.out.say("results: %s\n", filepath.Join(o.Out, report.PageFile))
	if err != nil {
		return because(ctx, err)
	}
	return outcomeOf(s)
}

// outcomeOf is the error of a run that did not go well: some requests failed, or all did.
func outcomeOf(s *loadtest.Summary) error {
	completed, failed := 0, 0
	for _, t := range s.Totals {
		completed += t.Completed
		failed += t.Failed
	}
	switch {
	case completed == 0:
		return quietError{exitFailed}
	case failed > 0:
		return quietError{exitPartly}
	default:
		return nil
	}
}

// progress writes a line about a run that goes on.
func (c *cli) progress(p loadtest.Progress) {
	ttft := ""
	if p.TTFT50 > 0 {
		ttft = fmt.Sprintf(", ttft p50 %s p99 %s", p.TTFT50.Round(100*time.Microsecond), p.TTFT99.Round(100*time.Microsecond))
	}
	trouble := ""
	if p.Redelivered > 0 || p.Lost > 0 {
		trouble = fmt.Sprintf(", %d delivered again, %d lost", p.Redelivered, p.Lost)
	}
	c.out.say("[%d/%d] %s, %s, round %d/%d: %4.0f s, %d ok, %d failed, %d in flight%s, %.0f tokens/s%s\n",
		min(p.Window+1, p.Windows), p.Windows, p.Target, p.Stage, p.Round+1, p.Rounds, p.Elapsed.Seconds(), p.Completed, p.Failed, p.InFlight, ttft,
		float64(p.OutputTokens)/max(p.Elapsed.Seconds(), 1e-3), trouble)
}

// resultsFolder is where results go that no folder is named for.
func resultsFolder() string { return "loadtest-" + time.Now().Format("20060102-150405") }

// commandLine is how a command was called, for whoever wants to repeat it.
func commandLine(ctx context.Context, cmd *cobra.Command) []string {
	if args, ok := ctx.Value(argsKey{}).([]string); ok {
		return append([]string{"hxp"}, args...)
	}
	return strings.Fields(cmd.CommandPath())
}

type argsKey struct{}

// opened opens a file that is named by a flag.
func opened(flag, path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: --%s: %w", app.ErrUsage, flag, err)
	}
	return f, nil
}
