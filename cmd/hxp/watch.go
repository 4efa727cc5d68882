package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

func (c *cli) watchCommand() *cobra.Command {
	var after uint64
	cmd := &cobra.Command{
		Use:   "watch JOB",
		Short: "Follow a job, now or later, from its first token or after a sequence number",
		Long: `Writes the text of a job as it arrives, beginning with what has been generated
already; with -o ndjson its events. Leaving does not cancel the job.`,
		Example: `  hxp watch 0192f0c1-7a3e-7cc0-9a55-1d2e3f4a5b6c
  hxp watch 0192f0c1-7a3e-7cc0-9a55-1d2e3f4a5b6c --after 120 -o ndjson`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd, 0, func(ctx context.Context, _ *app.Config, client *app.Client) error {
				if _, err := client.Status(ctx, args[0]); errors.Is(err, producer.ErrUnknownJob) {
					c.out.say("hxp: nothing is stored of job %s yet: it waits in the queue, or was never submitted; waiting\n", args[0])
				}
				if c.out.format != formatTable {
					return c.events(ctx, client, args[0], after)
				}
				r, err := client.Watch(ctx, args[0], after, c.printer())
				if err != nil {
					return err
				}
				return c.result(r, true)
			})
		},
	}
	cmd.Flags().Uint64Var(&after, "after", 0, "begin after the event with this `seq`")
	return cmd
}

// events writes the events of a job, one a line, or as one array once it has ended.
func (c *cli) events(ctx context.Context, client *app.Client, job string, after uint64) error {
	s, err := client.Follow(ctx, job, after)
	if err != nil {
		return client.Explain(err)
	}
	defer s.Close()
	var all []schemas.Event
	var last schemas.Event
	for e, err := range s.Events(ctx) {
		if err != nil {
			return client.Explain(err)
		}
		last = e
		if c.out.format == formatJSON {
			all = append(all, e)
			continue
		}
		if err := c.out.write(string(append(e.Append(nil), '\n'))); err != nil {
			return err
		}
	}
	if c.out.format == formatJSON {
		if err := list(c.out, all, "", nil); err != nil {
			return err
		}
	}
	if last.Kind.Terminal() && last.Kind != schemas.Done {
		return quietError{exitFailed} // the last event has said so
	}
	return nil
}
