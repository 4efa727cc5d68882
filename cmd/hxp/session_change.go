package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
)

func (c *cli) sessionBranchCommand() *cobra.Command {
	var turn string
	var remove, activate bool
	cmd := &cobra.Command{
		Use:   "branch ID [NAME]",
		Short: "List a session's branches, or make, move, activate or remove one",
		Long: `Without a name lists the branches. With one, makes it end with --turn, which is the
active branch's last turn for a new name, and --activate makes it the branch that is
answered by default. --remove takes the name away; the turns stay.`,
		Example: `  hxp session branch ID
  hxp session branch ID draft --turn t-0192f0c1-7a3e-7cc0-9a55-1d2e3f4a5b6c
  hxp session branch ID draft --activate
  hxp session branch ID draft --remove`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && (turn != "" || remove || activate) {
				return fmt.Errorf("%w: --turn, --activate and --remove want the NAME of a branch", app.ErrUsage)
			}
			return c.withSessions(cmd, func(ctx context.Context, s *app.Sessions) error {
				if len(args) == 2 {
					if err := s.Branch(ctx, args[0], app.BranchChange{Name: args[1], Turn: turn, Activate: activate, Remove: remove}); err != nil {
						return err
					}
				}
				all, err := s.Branches(ctx, args[0])
				if err != nil {
					return err
				}
				return c.branches(all)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&turn, "turn", "", "`id` of the turn that the branch ends with")
	f.BoolVar(&activate, "activate", false, "answer this branch by default")
	f.BoolVar(&remove, "remove", false, "take the name away")
	cmd.MarkFlagsMutuallyExclusive("turn", "remove")
	cmd.MarkFlagsMutuallyExclusive("activate", "remove")
	return cmd
}

// branches writes a list of branches.
func (c *cli) branches(all []app.Branch) error {
	return list(c.out, all, row("", "BRANCH", "TURN", "TEXT"), func(b app.Branch) string {
		mark := ""
		if b.Active {
			mark = "*"
		}
		return row(mark, b.Name, b.Turn, b.Text)
	})
}

func (c *cli) sessionForkCommand() *cobra.Command {
	var turn, title string
	cmd := &cobra.Command{
		Use:   "fork ID",
		Short: "Copy the path to a turn into a session of its own and print its id",
		Example: `  hxp session fork ID
  hxp session fork ID --turn t-0192f0c1-7a3e-7cc0-9a55-1d2e3f4a5b6c --title "Another way"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withSessions(cmd, func(ctx context.Context, s *app.Sessions) error {
				session, err := s.Fork(ctx, args[0], turn, title)
				if err != nil {
					return err
				}
				return c.out.one(session, func() error { return c.out.write(session.ID + "\n") })
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&turn, "turn", "", "`id` of the last turn to copy (default the active branch's last)")
	f.StringVar(&title, "title", "", "`title` of the copy (default the same)")
	return cmd
}

func (c *cli) sessionRenameCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rename ID TITLE...",
		Short:   "Give a session another title",
		Example: `  hxp session rename 0192f0c1-7a3e-7cc0-9a55-1d2e3f4a5b6c Trip to Rome`,
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withSessions(cmd, func(ctx context.Context, s *app.Sessions) error {
				session, err := s.Rename(ctx, args[0], strings.Join(args[1:], " "))
				if err != nil {
					return err
				}
				return c.out.one(session, func() error { return c.out.write(session.ID + "  " + session.Title + "\n") })
			})
		},
	}
}

func (c *cli) sessionRemoveCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "rm ID...",
		Short: "Delete sessions for good",
		Long: `Deletes sessions with all their turns. At a terminal it asks first. A deleted id
cannot be used again for conversation.tombstone_ttl, so that a turn in flight does
not bring it back.`,
		Example: `  hxp session rm 0192f0c1-7a3e-7cc0-9a55-1d2e3f4a5b6c
  hxp session rm --yes ID ID`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes && terminal(c.stdin) {
				c.out.say("Delete %s for good? [y/N] ", strings.Join(args, ", "))
				answer, _ := bufio.NewReader(c.stdin).ReadString('\n') // the end is no yes
				if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
					return errors.New("nothing was deleted")
				}
			}
			return c.withSessions(cmd, func(ctx context.Context, s *app.Sessions) error {
				out, err := s.Remove(ctx, args)
				return errors.Join(err, list(c.out, out, row("SESSION", "STATE"), func(x app.Removed) string {
					if x.Error != "" {
						return row(x.ID, "not deleted")
					}
					return row(x.ID, "deleted")
				}))
			})
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}
