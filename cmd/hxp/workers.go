package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

func (c *cli) workersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "workers",
		Short:   "List and drain workers",
		Example: `  hxp workers ls`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.workersListCommand(), c.workersDrainCommand())
	return cmd
}

func (c *cli) workersListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the live workers",
		Example: `  hxp workers ls
  hxp workers ls -o ndjson`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd, askWithin, func(ctx context.Context, _ *app.Config, client *app.Client) error {
				all, err := queue.Workers(ctx, client.JS)
				if err != nil {
					return client.Explain(err)
				}
				return list(c.out, all, row("WORKER", "MODEL", "STATE", "BUSY", "SLOTS", "ENGINE", "HOST", "UP"), func(w schemas.WorkerInfo) string {
					engine := w.Engine
					if w.Simulated {
						engine += " (simulated)"
					}
					state := string(w.State)
					if w.Reason != "" {
						state += ": " + short(w.Reason)
					}
					model := w.Model
					if len(w.Covering) > 0 {
						model += " (for " + strings.Join(w.Covering, ", ") + ")"
					}
					return row(w.ID, model, state, w.Busy, w.Slots, engine, fmt.Sprintf("%s/%d", w.Host, w.PID), time.Since(w.Started).Round(time.Second))
				})
			})
		},
	}
}

func (c *cli) workersDrainCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "drain WORKER",
		Short:   "Have a worker pull no more, finish what it runs, and end",
		Example: `  hxp workers drain phi3-a1b2c3d4`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd, askWithin, func(ctx context.Context, _ *app.Config, client *app.Client) error {
				d, err := client.Drain(ctx, args[0])
				if err != nil {
					return err
				}
				return c.out.one(d, func() error { return c.out.write(fmt.Sprintf("%s is %s\n", d.ID, d.State)) })
			})
		},
	}
}
