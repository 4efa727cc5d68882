package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/producer/batch"
	"github.com/hxp-enterprise/hxp/schemas"
)

func (c *cli) batchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "batch",
		Short: "Run files of requests: offline generation that can be continued",
		Long: `Works with OpenAI's batch format: a JSON object on each line with custom_id,
method, url and body. Each line is one job; a bad line fails alone.

run works like a filter and goes on where it was interrupted; submit leaves the
file to the cluster. The exit code is 0 if every line was answered, 6 if some
failed, 1 if all did.`,
		Example: `  hxp batch validate in.jsonl
  hxp batch run -i in.jsonl -o out.jsonl -e errors.jsonl
  hxp batch submit in.jsonl`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		c.batchValidateCommand(), c.batchRunCommand(), c.batchSubmitCommand(), c.batchListCommand(), c.batchShowCommand(),
		c.batchWatchCommand(), c.batchResultsCommand(), c.batchRetryCommand(), c.batchCancelCommand(), c.batchPriorityCommand(),
	)
	return cmd
}

// lineRules are the flags that say what a line may be.
type lineRules struct {
	endpoint string
}

func (r *lineRules) declare(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.endpoint, "endpoint", "", "the `url` that all lines are for (default the first line's)")
}

func (r *lineRules) check() error {
	if e := schemas.Endpoint(r.endpoint); r.endpoint != "" && !e.Valid() {
		return fmt.Errorf("%w: --endpoint %q is neither %s nor %s", app.ErrUsage, r.endpoint, schemas.ChatCompletions, schemas.Completions)
	}
	return nil
}

// maxFaults is how many faults are shown in one JSON document.
const maxFaults = 10_000

func (c *cli) batchValidateCommand() *cobra.Command {
	var rules lineRules
	cmd := &cobra.Command{
		Use:   "validate FILE",
		Short: "Check every line of a file against the configured models, without a server",
		Long: `Reads a file, or stdin with -, and names every fault with its line, field and
bound. The exit code is 0 if there is none, 6 if some lines are invalid, and 1 if
all are.`,
		Example: `  hxp batch validate in.jsonl
  hxp batch validate - -o ndjson < in.jsonl`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := c.config()
			if err == nil {
				err = rules.check()
			}
			if err != nil {
				return err
			}
			in, err := c.open(args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			return c.validate(cmd.Context(), in, batch.Rules{
				Models: cfg.ModelNames(), Endpoint: schemas.Endpoint(rules.endpoint), MaxBody: int(cfg.Queue.MaxBodyBytes),
			})
		},
	}
	rules.declare(cmd)
	return cmd
}

// open opens a file to read; - is stdin.
func (c *cli) open(path string) (io.ReadCloser, error) {
	if path == batch.Stdio {
		return io.NopCloser(c.stdin), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", app.ErrUsage, err)
	}
	return f, nil
}

func (c *cli) validate(ctx context.Context, in io.Reader, rules batch.Rules) error {
	doc := struct {
		batch.Summary
		Faults []*batch.LineError `json:"faults"`
	}{Faults: []*batch.LineError{}}
	found, err := batch.Validate(ctx, in, rules, func(f *batch.LineError) error {
		switch c.out.format {
		case formatTable:
			return c.out.write(f.Error() + "\n")
		case formatNDJSON:
			return json.NewEncoder(c.out.data).Encode(f)
		}
		if len(doc.Faults) < maxFaults {
			doc.Faults = append(doc.Faults, f)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if doc.Summary = found; c.out.format == formatJSON {
		if err := c.out.one(doc, nil); err != nil {
			return err
		}
	}
	c.out.say("%d lines, %d valid, %d invalid\n", found.Lines, found.Valid, found.Invalid)
	return byOutcome(found.Valid, found.Invalid)
}

// byOutcome is the error of some lines that went well and some that did not.
func byOutcome(good, bad int64) error {
	switch {
	case bad == 0:
		return nil
	case good == 0:
		return quietError{exitFailed}
	default:
		return quietError{exitPartly}
	}
}

func (c *cli) batchRunCommand() *cobra.Command {
	var rules lineRules
	var cfg batch.RunConfig
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run a file of requests, or go on with it, and write each reply as soon as it is there",
		Long: `Validates the whole input, then runs it: a line of output for each line of input,
in the order in which they are done. Progress goes to stderr.

Interrupted or killed, the same command goes on where it stopped: lines that have
a record are not run again, and replies that were stored meanwhile are taken as
they are. What a run is goes into a file beside the output, named .hxp.`,
		Example: `  hxp batch run -i in.jsonl -o out.jsonl
  hxp batch run -i in.jsonl -o out.jsonl -e errors.jsonl --retry-failed
  zcat in.jsonl.gz | hxp batch run | jq -r .custom_id`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := rules.check(); err != nil {
				return err
			}
			return c.with(cmd, 0, func(ctx context.Context, conf *app.Config, client *app.Client) error {
				cfg.Tenant, cfg.Endpoint, cfg.MaxBody = conf.Tenant, schemas.Endpoint(rules.endpoint), int(conf.Queue.MaxBodyBytes)
				cfg.Stdin, cfg.Stdout = c.stdin, c.out.data
				return client.Explain(c.runBatch(ctx, client, cfg))
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&cfg.Input, "input", "i", batch.Stdio, "`file` of requests; - is stdin")
	f.StringVarP(&cfg.Output, "output", "o", batch.Stdio, "`file` of replies; - is stdout")
	f.StringVarP(&cfg.Errors, "errors", "e", "", "`file` of the lines that failed (default the output)")
	f.IntVar(&cfg.InFlight, "in-flight", 0, "how many lines are queued or running at once (default twice the workers' slots)")
	f.BoolVar(&cfg.SkipValidation, "no-validate", false, "start at once; a line is checked when its turn comes")
	f.BoolVar(&cfg.Strict, "strict", false, "run nothing if a line is invalid")
	f.BoolVar(&cfg.Restart, "restart", false, "begin anew, and overwrite what is there")
	f.BoolVar(&cfg.RetryFailed, "retry-failed", false, "try the lines again that failed in a run that is complete")
	rules.declare(cmd)
	return cmd
}

// shownFaults is how many invalid lines are named before a run; their records name all of them.
const shownFaults = 10

func (c *cli) runBatch(ctx context.Context, client *app.Client, cfg batch.RunConfig) error {
	faults := 0
	cfg.Invalid = func(f *batch.LineError) {
		if faults++; faults <= shownFaults {
			c.out.say("hxp: %v\n", f)
		}
	}
	cfg.Validated = func(s batch.Summary) {
		if s.Invalid > 0 {
			c.out.say("hxp: %d of %d lines are invalid\n", s.Invalid, s.Lines)
		}
	}
	run, err := batch.NewRun(client.JS, cfg)
	if err != nil {
		return fmt.Errorf("%w: %w", app.ErrUsage, err)
	}
	stop := c.meter(func() (batch.Progress, bool) { return run.Progress(), true })
	err = run.Run(ctx)
	stop()
	p := run.Progress()
	switch {
	case errors.Is(err, app.ErrInterrupted):
		if cfg.Output != batch.Stdio {
			c.out.say("hxp: interrupted after %d of %d lines; the same command goes on from there\n", p.Done(), p.Total)
		}
		return quietError{exitInterrupted}
	case errors.Is(err, batch.ErrInvalid), errors.Is(err, batch.ErrChanged), errors.Is(err, batch.ErrNotEmpty), errors.Is(err, batch.ErrLocked), errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: %w", app.ErrUsage, err)
	case err != nil:
		return err
	}
	c.out.say("%d lines: %d completed, %d failed, %d tokens generated\n", p.Done(), p.Completed, p.Failed, p.CompletionTokens)
	return byOutcome(p.Completed, p.Failed)
}
