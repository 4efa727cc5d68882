package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// pauseFlags say what is paused.
type pauseFlags struct {
	classes []string
}

func (p *pauseFlags) declare(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&p.classes, "class", nil, "only these `classes`: interactive, standard, batch (default all)")
}

// each calls f with every class of every model that is meant; no model means all that have a queue.
func (p *pauseFlags) each(ctx context.Context, client *app.Client, models []string, f func(model string, class schemas.Class) error) error {
	classes := schemas.Classes()
	if len(p.classes) > 0 {
		classes = nil
		for _, name := range p.classes {
			class := schemas.Class(name)
			if !class.Valid() {
				return fmt.Errorf("%w: --class %q is none of interactive, standard, batch", app.ErrUsage, name)
			}
			classes = append(classes, class)
		}
	}
	known, err := queue.Models(ctx, client.JS)
	if err != nil {
		return client.Explain(err)
	}
	if len(models) == 0 {
		models = known
	}
	for _, m := range models {
		if !slices.Contains(known, m) {
			return fmt.Errorf("%w: model %q has no queue; there are %v", app.ErrUsage, m, known)
		}
	}
	var errs []error
	for _, m := range models {
		for _, class := range classes {
			errs = append(errs, f(m, class))
		}
	}
	return client.Explain(errors.Join(errs...))
}

func (c *cli) queuePauseCommand() *cobra.Command {
	var p pauseFlags
	var during time.Duration
	cmd := &cobra.Command{
		Use:   "pause [MODEL...]",
		Short: "Hand out no more jobs; what is running goes on, and jobs are still accepted",
		Long: `The broker holds the jobs back, so that every worker heeds it at once, and no
more lines of batches are admitted. It lasts until hxp queue resume, or for --for.`,
		Example: `  hxp queue pause --class batch
  hxp queue pause phi3 --for 30m`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if during < 0 {
				return fmt.Errorf("%w: --for is %s; want above 0", app.ErrUsage, during)
			}
			until := queue.Forever
			if during > 0 {
				until = time.Now().Add(during)
			}
			return c.with(cmd, askWithin, func(ctx context.Context, _ *app.Config, client *app.Client) error {
				return p.each(ctx, client, args, func(model string, class schemas.Class) error {
					return queue.Pause(ctx, client.JS, model, class, until)
				})
			})
		},
	}
	p.declare(cmd)
	cmd.Flags().DurationVar(&during, "for", 0, "resume by itself after this long")
	return cmd
}

func (c *cli) queueResumeCommand() *cobra.Command {
	var p pauseFlags
	cmd := &cobra.Command{
		Use:     "resume [MODEL...]",
		Short:   "Hand out jobs again",
		Example: `  hxp queue resume --class batch`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd, askWithin, func(ctx context.Context, _ *app.Config, client *app.Client) error {
				return p.each(ctx, client, args, func(model string, class schemas.Class) error {
					return queue.Resume(ctx, client.JS, model, class)
				})
			})
		},
	}
	p.declare(cmd)
	return cmd
}
