package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// deadFlags choose dead letters.
type deadFlags struct {
	choice     app.DeadChoice
	code       string
	allTenants bool
}

func (d *deadFlags) declare(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&d.choice.Model, "model", "", "only those of a `model`")
	f.StringVar(&d.code, "code", "", "only those given up with a `code`, such as max_attempts")
	f.StringVar(&d.choice.Job, "job", "", "only that of a job `id`")
}

// choose completes the choice with the arguments, which are places in the stream.
func (d *deadFlags) choose(cfg *app.Config, args []string) (app.DeadChoice, error) {
	out := d.choice
	out.Code = schemas.Code(d.code)
	if !d.allTenants {
		out.Tenant = cfg.Tenant
	}
	for _, a := range args {
		n, err := strconv.ParseUint(a, 10, 64)
		if err != nil {
			return out, fmt.Errorf("%w: %q is no number of a dead letter (hxp dead ls shows them)", app.ErrUsage, a)
		}
		out.Stored = append(out.Stored, n)
	}
	return out, nil
}

func (c *cli) deadCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dead",
		Short: "List, show, replay and purge the jobs that were given up",
		Example: `  hxp dead ls --code max_attempts
  hxp dead replay --model phi3`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.deadListCommand(), c.deadShowCommand(), c.deadReplayCommand(), c.deadPurgeCommand())
	return cmd
}

func (c *cli) deadListCommand() *cobra.Command {
	var d deadFlags
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List dead letters, oldest first",
		Example: `  hxp dead ls
  hxp dead ls --model phi3 --code max_attempts --limit 20
  hxp dead ls --all-tenants -o ndjson`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd, askWithin, func(ctx context.Context, cfg *app.Config, client *app.Client) error {
				choice, err := d.choose(cfg, nil)
				if err != nil {
					return err
				}
				letters, err := client.Dead(ctx, choice)
				if err != nil {
					return err
				}
				return list(c.out, letters, row("NR", "WHEN", "MODEL", "TENANT", "JOB", "ATTEMPTS", "REASON"), func(l *queue.StoredDeadLetter) string {
					return row(l.Stored, l.Time.UTC().Format(time.RFC3339), l.Model, l.Tenant, l.ID, len(l.Attempts), short(reasonOf(l)))
				})
			})
		},
	}
	d.declare(cmd)
	cmd.Flags().IntVar(&d.choice.Limit, "limit", 0, "at most this many")
	cmd.Flags().BoolVar(&d.allTenants, "all-tenants", false, "those of every tenant")
	return cmd
}

func reasonOf(l *queue.StoredDeadLetter) string {
	if l.Reason == nil {
		return ""
	}
	return l.Reason.Error()
}

// short keeps a cell of a table on its line, and characters out of it that would steer a terminal.
func short(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.Join(strings.Fields(s), " "))
	if r := []rune(s); len(r) > 80 {
		return string(r[:79]) + "…"
	}
	return s
}

func (c *cli) deadShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show NR",
		Short:   "Print one dead letter: reason, every attempt, and the job as it was submitted",
		Example: `  hxp dead show 12`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd, askWithin, func(ctx context.Context, cfg *app.Config, client *app.Client) error {
				choice, err := new(deadFlags).choose(cfg, args)
				if err != nil {
					return err
				}
				letters, err := client.Dead(ctx, choice)
				if err != nil {
					return err
				}
				if c.out.format == formatTable {
					c.out.format = formatJSON // a letter is no row
				}
				return c.out.one(letters[0], nil)
			})
		},
	}
}

func (c *cli) deadReplayCommand() *cobra.Command {
	var d deadFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "replay [NR...]",
		Short: "Submit given-up jobs again and print the new ids",
		Long: `Submits the job of each dead letter again, under an id derived from the letter, so
that replaying a letter twice is one job. Its deadline and reply address belonged
to whoever waited then and are left out. The letters stay; see hxp dead purge.`,
		Example: `  hxp dead replay 12 13
  hxp dead replay --model phi3 --code engine_unavailable
  hxp dead replay --all`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd, askWithin, func(ctx context.Context, cfg *app.Config, client *app.Client) error {
				choice, err := d.narrow(cfg, args, all)
				if err != nil {
					return err
				}
				letters, err := client.Dead(ctx, choice)
				if err != nil {
					return err
				}
				out, err := client.Replay(ctx, letters)
				return errors.Join(err, list(c.out, out, row("NR", "JOB", "NEW JOB"), func(r app.Replayed) string {
					switch {
					case r.Error != "":
						return row(r.Stored, r.Job, "not replayed")
					case r.Again:
						return row(r.Stored, r.Job, r.New+" (replayed before)")
					}
					return row(r.Stored, r.Job, r.New)
				}))
			})
		},
	}
	d.declare(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all of the tenant")
	return cmd
}

// narrow refuses a choice of everything that was not asked for with --all.
func (d *deadFlags) narrow(cfg *app.Config, args []string, all bool) (app.DeadChoice, error) {
	choice, err := d.choose(cfg, args)
	if err == nil && choice.Narrow() == all {
		err = fmt.Errorf("%w: choose dead letters by number, --model, --code or --job, or else --all", app.ErrUsage)
	}
	return choice, err
}

func (c *cli) deadPurgeCommand() *cobra.Command {
	var d deadFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "purge [NR...]",
		Short: "Remove dead letters for good",
		Example: `  hxp dead purge 12
  hxp dead purge --model phi3
  hxp dead purge --all`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd, askWithin, func(ctx context.Context, cfg *app.Config, client *app.Client) error {
				choice, err := d.narrow(cfg, args, all)
				if err != nil {
					return err
				}
				n, err := client.PurgeDead(ctx, choice)
				return errors.Join(err, c.out.one(map[string]uint64{"purged": n}, func() error {
					return c.out.write(fmt.Sprintf("%d removed\n", n))
				}))
			})
		},
	}
	d.declare(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all of the tenant")
	return cmd
}
