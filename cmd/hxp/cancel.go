package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
)

func (c *cli) cancelCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "cancel JOB...",
		Short: "Stop jobs, queued or running, and say how far each had come",
		Example: `  hxp cancel 0192f0c1-7a3e-7cc0-9a55-1d2e3f4a5b6c
  hxp cancel --reason "wrong prompt" JOB JOB`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd, askWithin, func(ctx context.Context, _ *app.Config, client *app.Client) error {
				out, err := client.CancelAll(ctx, args, reason)
				return errors.Join(err, list(c.out, out, row("JOB", "PHASE"), func(x app.Cancelled) string {
					if x.Error != "" {
						return row(x.ID, "not cancelled")
					}
					return row(x.ID, x.Phase)
				}))
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`why`, for whoever waits for the job")
	return cmd
}
