package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
)

func (c *cli) getCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "get JOB",
		Short: "Print the result of a job, or how far it has come",
		Example: `  hxp get 0192f0c1-7a3e-7cc0-9a55-1d2e3f4a5b6c
  hxp get 0192f0c1-7a3e-7cc0-9a55-1d2e3f4a5b6c -o json | jq .timings`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd, askWithin, func(ctx context.Context, _ *app.Config, client *app.Client) error {
				r, state, err := client.Look(ctx, args[0])
				switch {
				case err != nil:
					return err
				case r != nil:
					return c.result(r, false)
				}
				return c.out.one(state, func() error {
					return c.out.write(fmt.Sprintf("%s: attempt %d, last event %d (%s); hxp watch %s\n", state.State, state.Attempt, state.LastSeq, state.Last, state.ID))
				})
			})
		},
	}
}
