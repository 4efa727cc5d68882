package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/producer/batch"
	"github.com/hxp-enterprise/hxp/schemas"
)

// batches connects and calls f with the tenant's batches.
func (c *cli) batches(cmd *cobra.Command, own time.Duration, f func(ctx context.Context, client *app.Client, batches *batch.Client) error) error {
	return c.with(cmd, own, func(ctx context.Context, _ *app.Config, client *app.Client) error {
		batches, err := batch.NewClient(client.JS, client.Tenant())
		if err != nil {
			return err
		}
		return client.Explain(f(ctx, client, batches))
	})
}

func (c *cli) batchSubmitCommand() *cobra.Command {
	var rules lineRules
	var s batch.Submission
	var skip, watch bool
	cmd := &cobra.Command{
		Use:   "submit FILE",
		Short: "Leave a file of requests to the cluster, and print the batch's id",
		Long: `Validates the file, stores it and returns: from then on the cluster works on it,
whoever dies. Lines that are invalid fail alone; a file without a valid line is
refused. With - the input is stdin, and is validated by the cluster.`,
		Example: `  hxp batch submit in.jsonl --window 6h
  hxp batch submit in.jsonl --priority 10 --watch`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := rules.check(); err != nil {
				return err
			}
			s.Endpoint = schemas.Endpoint(rules.endpoint)
			in, err := c.open(args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			return c.with(cmd, 0, func(ctx context.Context, cfg *app.Config, client *app.Client) error {
				if !skip && args[0] != batch.Stdio {
					if err := c.checkFile(ctx, cfg, args[0], s.Endpoint); err != nil {
						return err
					}
				}
				batches, err := batch.NewClient(client.JS, cfg.Tenant)
				if err != nil {
					return err
				}
				b, err := batches.Submit(ctx, in, s)
				if err != nil {
					return client.Explain(err)
				}
				if err := c.out.one(b, func() error { return c.out.write(b.ID + "\n") }); err != nil || !watch {
					return err
				}
				return client.Explain(c.watchBatch(ctx, batches, b.ID))
			})
		},
	}
	rules.declare(cmd)
	f := cmd.Flags()
	f.DurationVar(&s.Window, "window", 24*time.Hour, "how long the batch may take")
	f.IntVar(&s.Priority, "priority", 0, "order among the tenant's batches, higher first, from -100 to 100")
	f.StringToStringVar(&s.Metadata, "metadata", nil, "`key=value` pairs to keep with the batch")
	f.BoolVar(&skip, "no-validate", false, "leave the validation to the cluster")
	f.BoolVarP(&watch, "watch", "w", false, "wait for the batch, with progress on stderr")
	return cmd
}

// checkFile validates a file before it is sent.
func (c *cli) checkFile(ctx context.Context, cfg *app.Config, path string, endpoint schemas.Endpoint) error {
	in, err := c.open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	faults := 0
	found, err := batch.Validate(ctx, in, batch.Rules{Models: cfg.ModelNames(), Endpoint: endpoint, MaxBody: int(cfg.Queue.MaxBodyBytes)}, func(f *batch.LineError) error {
		if faults++; faults <= shownFaults {
			c.out.say("hxp: %v\n", f)
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case found.Valid == 0:
		return fmt.Errorf("%w: none of the %d lines of %s is valid", app.ErrUsage, found.Lines, path)
	case found.Invalid > 0:
		c.out.say("hxp: %d of %d lines are invalid\n", found.Invalid, found.Lines)
	}
	return nil
}

// batchRow is a batch as a row of a table.
func batchRow(b *schemas.BatchState) string {
	counts := b.RequestCounts
	return row(b.ID, b.Status, counts.Total, counts.Completed, counts.Failed, b.Priority, age(time.Unix(b.CreatedAt, 0)))
}

var batchHeader = row("BATCH", "STATUS", "LINES", "COMPLETED", "FAILED", "PRIORITY", "AGE")

func (c *cli) batchListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the tenant's batches, newest first",
		Example: `  hxp batch ls
  hxp batch ls -o ndjson | jq -r 'select(.status=="in_progress") | .id'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.batches(cmd, askWithin, func(ctx context.Context, _ *app.Client, batches *batch.Client) error {
				all, err := batches.List(ctx)
				if err != nil {
					return err
				}
				return list(c.out, all, batchHeader, batchRow)
			})
		},
	}
}

// showBatch writes a batch as data.
func (c *cli) showBatch(b *schemas.BatchState) error {
	return c.out.one(b, func() error {
		if err := list(c.out, []*schemas.BatchState{b}, batchHeader, batchRow); err != nil {
			return err
		}
		if b.Fault != "" {
			c.out.say("waiting: %s\n", short(b.Fault))
		}
		if b.Errors != nil {
			for _, e := range b.Errors.Data[:min(len(b.Errors.Data), shownFaults)] {
				c.out.say("line %d: %s\n", e.Line, e.Message)
			}
		}
		return nil
	})
}

func (c *cli) batchShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show BATCH",
		Short:   "Show one batch: its state, counts and times",
		Example: `  hxp batch show batch_0192f0c17a3e7cc09a551d2e3f4a5b6c -o json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.batches(cmd, askWithin, func(ctx context.Context, _ *app.Client, batches *batch.Client) error {
				b, err := batches.Get(ctx, args[0])
				if err != nil {
					return err
				}
				return c.showBatch(b)
			})
		},
	}
}

func (c *cli) batchWatchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "watch BATCH",
		Short: "Wait for a batch, with progress on stderr",
		Long: `Shows a batch's progress until it is over, and then the batch. Leaving does not
cancel it. The exit code is 0 if every line was answered, 6 if some failed, and 1
if all did.`,
		Example: `  hxp batch watch batch_0192f0c17a3e7cc09a551d2e3f4a5b6c`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.batches(cmd, 0, func(ctx context.Context, _ *app.Client, batches *batch.Client) error {
				return c.watchBatch(ctx, batches, args[0])
			})
		},
	}
}

func (c *cli) watchBatch(ctx context.Context, batches *batch.Client, id string) error {
	var mu sync.Mutex
	var last *schemas.BatchState
	stop := c.meter(func() (batch.Progress, bool) {
		mu.Lock()
		defer mu.Unlock()
		if last == nil || last.Status == schemas.BatchValidating {
			return batch.Progress{}, false
		}
		return progressOf(last), true
	})
	b, err := batches.Watch(ctx, id, func(b *schemas.BatchState) {
		mu.Lock()
		defer mu.Unlock()
		last = b
	})
	stop()
	switch {
	case errors.Is(err, app.ErrInterrupted):
		c.out.say("hxp: batch %s goes on; hxp batch watch shows it again\n", id)
		return quietError{exitInterrupted}
	case err != nil:
		return err
	}
	if err := c.showBatch(b); err != nil {
		return err
	}
	if b.Status != schemas.BatchCompleted && b.RequestCounts.Failed == 0 {
		return quietError{exitFailed}
	}
	return byOutcome(b.RequestCounts.Completed, b.RequestCounts.Failed)
}

func progressOf(b *schemas.BatchState) batch.Progress {
	return batch.Progress{
		Total: b.RequestCounts.Total, Completed: b.RequestCounts.Completed, Failed: b.RequestCounts.Failed,
		PromptTokens: int64(b.Usage.PromptTokens), CompletionTokens: int64(b.Usage.CompletionTokens), Fault: b.Fault,
	}
}

func (c *cli) batchResultsCommand() *cobra.Command {
	var out, errs string
	cmd := &cobra.Command{
		Use:   "results BATCH",
		Short: "Fetch what a batch has answered so far, and what has failed",
		Long: `Writes the records of the lines that were answered, in the order in which they
were done, and with -e those that have failed. It may be asked for at any time.`,
		Example: `  hxp batch results batch_0192f0c17a3e7cc09a551d2e3f4a5b6c -o out.jsonl -e errors.jsonl
  hxp batch results batch_0192f0c17a3e7cc09a551d2e3f4a5b6c | jq -r .custom_id`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.batches(cmd, 0, func(ctx context.Context, _ *app.Client, batches *batch.Client) error {
				n, err := c.fetch(out, batches.Output(ctx, args[0]))
				if err == nil && errs != "" {
					var failed int
					failed, err = c.fetch(errs, batches.Errors(ctx, args[0]))
					c.out.say("%d completed, %d failed\n", n, failed)
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&out, "output", "o", batch.Stdio, "`file` of replies; - is stdout")
	f.StringVarP(&errs, "errors", "e", "", "`file` of the lines that failed; - is stdout")
	return cmd
}

// fetch writes records to a file, and says how many.
func (c *cli) fetch(path string, records iter.Seq2[[]byte, error]) (n int, err error) {
	if path != batch.Stdio {
		f, err := os.Create(path)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", app.ErrUsage, err)
		}
		n, err = copyRecords(f, records)
		return n, errors.Join(err, f.Close())
	}
	return copyRecords(c.out.data, records)
}

func copyRecords(to io.Writer, records iter.Seq2[[]byte, error]) (n int, err error) {
	w := bufio.NewWriter(to)
	for line, err := range records {
		if err != nil {
			return n, errors.Join(err, w.Flush())
		}
		if _, err := w.Write(line); err != nil {
			return n, err
		}
		n++
	}
	return n, w.Flush()
}

func (c *cli) batchRetryCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "retry-failed BATCH",
		Short:   "Try the lines of a batch again that have failed",
		Example: `  hxp batch retry-failed batch_0192f0c17a3e7cc09a551d2e3f4a5b6c`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.batches(cmd, askWithin, func(ctx context.Context, _ *app.Client, batches *batch.Client) error {
				b, err := batches.RetryFailed(ctx, args[0])
				if err != nil {
					return err
				}
				return c.showBatch(b)
			})
		},
	}
}

func (c *cli) batchCancelCommand() *cobra.Command {
	var abort bool
	cmd := &cobra.Command{
		Use:   "cancel BATCH",
		Short: "Begin no more lines of a batch; what was answered stays",
		Long: `Lines that are running finish, for ten minutes at most; with --abort they are
cancelled at once. The rest fails as batch_cancelled.`,
		Example: `  hxp batch cancel batch_0192f0c17a3e7cc09a551d2e3f4a5b6c --abort`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.batches(cmd, askWithin, func(ctx context.Context, _ *app.Client, batches *batch.Client) error {
				b, err := batches.Cancel(ctx, args[0], abort)
				if err != nil {
					return err
				}
				return c.showBatch(b)
			})
		},
	}
	cmd.Flags().BoolVar(&abort, "abort", false, "cancel the lines that are running too")
	return cmd
}

func (c *cli) batchPriorityCommand() *cobra.Command {
	var priority int
	cmd := &cobra.Command{
		Use:     "priority BATCH",
		Short:   "Order a batch anew among those of its tenant",
		Example: `  hxp batch priority batch_0192f0c17a3e7cc09a551d2e3f4a5b6c --to 10`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.batches(cmd, askWithin, func(ctx context.Context, _ *app.Client, batches *batch.Client) error {
				b, err := batches.SetPriority(ctx, args[0], priority)
				if err != nil {
					return err
				}
				return c.showBatch(b)
			})
		},
	}
	cmd.Flags().IntVar(&priority, "to", 0, "the new `priority`, from -100 to 100")
	return cmd
}
