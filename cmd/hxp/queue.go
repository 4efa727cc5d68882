package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/internal/queue"
)

func (c *cli) queueCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "queue",
		Short:   "Show, pause and set up the queues",
		Example: `  hxp queue ls`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.queueListCommand(), c.queueApplyCommand(), c.queuePauseCommand(), c.queueResumeCommand())
	return cmd
}

func (c *cli) queueListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "Show what waits and what runs, by model and class",
		Example: `  hxp queue ls
  hxp queue ls -o json | jq '.[] | {model, jobs}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd, askWithin, func(ctx context.Context, _ *app.Config, client *app.Client) error {
				stats, err := client.QueueStats(ctx)
				if err != nil {
					return err
				}
				if c.out.format != formatTable {
					return list(c.out, stats, "", nil)
				}
				type line struct {
					model string
					queue.ClassStats
				}
				var lines []line
				for _, s := range stats {
					for _, class := range s.Classes {
						lines = append(lines, line{s.Model, class})
					}
				}
				return list(c.out, lines, row("MODEL", "CLASS", "WAITING", "RUNNING", "RETRIED", "OLDEST", "STATE"), func(l line) string {
					return row(l.model, l.Class, l.Pending, l.Running, l.Redelivered, age(l.Oldest), delivery(l.ClassStats))
				})
			})
		},
	}
}

func age(since time.Time) string {
	if since.IsZero() {
		return "-"
	}
	return time.Since(since).Round(time.Second).String()
}

// longPause is a pause that is to be ended by hand.
const longPause = 10 * 365 * 24 * time.Hour

func delivery(s queue.ClassStats) string {
	if s.Paused && s.PauseRemaining > longPause {
		return "paused"
	}
	if s.Paused {
		return fmt.Sprintf("paused for %s", s.PauseRemaining.Round(time.Second))
	}
	return "open"
}

// change is a difference that has been removed.
type change struct {
	Object string `json:"object"`
	Field  string `json:"setting"`
	Have   string `json:"was"`
	Want   string `json:"is"`
}

func (c *cli) queueApplyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "apply",
		Short: "Create what is missing, and change what differs from the configuration",
		Example: `  hxp queue apply --config hxp.yaml
  hxp queue apply --set queue.max_jobs=200000`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd, askWithin, func(ctx context.Context, cfg *app.Config, client *app.Client) error {
				changed, err := queue.Apply(ctx, client.JS, cfg.ModelNames(), cfg.Queue.Config())
				if c.out.format == formatTable && err == nil && len(changed) == 0 {
					c.out.say("the queue is as configured\n")
					return nil
				}
				done := make([]change, len(changed))
				for i, d := range changed {
					done[i] = change(d)
				}
				listErr := list(c.out, done, row("OBJECT", "SETTING", "WAS", "IS"), func(d change) string {
					return row(d.Object, d.Field, d.Have, d.Want)
				})
				if err != nil {
					return client.Explain(err)
				}
				return listErr
			})
		},
	}
}
