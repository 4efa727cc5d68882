package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/conversation"
)

func (c *cli) sessionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "session",
		Short: "List, show, branch, copy, export and delete stored conversations",
		Long: `Works with the conversations of the tenant, which are kept in Redis: that of an
hxp up on this machine, or redis.url (REDIS_URL). A conversation is a tree of turns;
a branch is a name for the last turn of one of its paths, and one branch is active.`,
		Example: `  hxp session ls
  hxp session tree 0192f0c1-7a3e-7cc0-9a55-1d2e3f4a5b6c
  hxp run phi3 --session 0192f0c1-7a3e-7cc0-9a55-1d2e3f4a5b6c "And at dusk?"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		c.sessionListCommand(), c.sessionShowCommand(), c.sessionTreeCommand(), c.sessionStatsCommand(),
		c.sessionBranchCommand(), c.sessionForkCommand(), c.sessionRenameCommand(), c.sessionRemoveCommand(),
		c.sessionExportCommand(), c.sessionImportCommand(),
	)
	return cmd
}

// withSessions loads the configuration, opens the conversations, calls f and closes them.
func (c *cli) withSessions(cmd *cobra.Command, f func(ctx context.Context, s *app.Sessions) error) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	ctx, cancel := c.bounded(cmd.Context(), askWithin)
	defer cancel()
	s, err := app.OpenSessions(ctx, cfg)
	if err != nil {
		return because(ctx, err)
	}
	if err := f(ctx, s); err != nil {
		return because(ctx, errors.Join(err, s.Close()))
	}
	return s.Close()
}

func (c *cli) sessionListCommand() *cobra.Command {
	var user, title string
	var limit int
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List a user's sessions, newest change first",
		Example: `  hxp session ls
  hxp session ls --user ada --title rome --limit 20 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withSessions(cmd, func(ctx context.Context, s *app.Sessions) error {
				threads, err := s.List(ctx, user, title, limit)
				if err != nil {
					return err
				}
				return c.threads(threads)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&user, "user", "", "the sessions of a `user` (default those without one)")
	f.StringVar(&title, "title", "", "only those whose title holds this `text`")
	f.IntVar(&limit, "limit", 50, "at most this many; 0 is all")
	return cmd
}

// threads writes a list of sessions.
func (c *cli) threads(threads []conversation.Thread) error {
	return list(c.out, threads, row("SESSION", "TITLE", "MODEL", "MESSAGES", "CHANGED"), func(t conversation.Thread) string {
		return row(t.ID, short(t.Title), short(t.Model), t.Messages, t.Updated.Format(time.RFC3339))
	})
}

func (c *cli) sessionShowCommand() *cobra.Command {
	var branch, turn string
	var last int
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Print what was said, on the active branch, another one, or up to a turn",
		Example: `  hxp session show 0192f0c1-7a3e-7cc0-9a55-1d2e3f4a5b6c
  hxp session show ID --branch draft --last 3
  hxp session show ID --turn t-0192f0c1-7a3e-7cc0-9a55-1d2e3f4a5b6c -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withSessions(cmd, func(ctx context.Context, s *app.Sessions) error {
				path, err := s.Path(ctx, args[0], branch, turn, last)
				if err != nil {
					return err
				}
				return c.out.one(path, func() error { return c.out.write(path.Text(c.out.strong)) })
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&branch, "branch", "", "the path of a branch, by its `name`")
	f.StringVar(&turn, "turn", "", "the path up to a turn, by its `id`")
	f.IntVar(&last, "last", 0, "only the last so many turns; 0 is all")
	cmd.MarkFlagsMutuallyExclusive("branch", "turn")
	return cmd
}

// treeWidth is where lines of a tree are cut by default.
const treeWidth = 80

func (c *cli) sessionTreeCommand() *cobra.Command {
	var width int
	cmd := &cobra.Command{
		Use:   "tree ID",
		Short: "Draw all branches of a session",
		Long: `Draws a session's turns, oldest first: down the page, and to the right where the
conversation branches. A branch's name stands at its last turn, with a star if it
is the active one. A circle that is not filled is a turn that did not finish and
is no history.`,
		Example: `  hxp session tree 0192f0c1-7a3e-7cc0-9a55-1d2e3f4a5b6c`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withSessions(cmd, func(ctx context.Context, s *app.Sessions) error {
				tree, err := s.Tree(ctx, args[0])
				if err != nil {
					return err
				}
				return c.out.one(tree, func() error { return c.out.write(tree.Draw(width, c.out.strong)) })
			})
		},
	}
	cmd.Flags().IntVar(&width, "width", treeWidth, "cut lines of text to this many characters")
	return cmd
}

func (c *cli) sessionStatsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "stats ID",
		Short:   "Print a session's counts: turns, tokens, times, branches, what was left out",
		Example: `  hxp session stats 0192f0c1-7a3e-7cc0-9a55-1d2e3f4a5b6c -o json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withSessions(cmd, func(ctx context.Context, s *app.Sessions) error {
				session, err := s.Get(ctx, args[0])
				if err != nil {
					return err
				}
				return c.sessionStats(session)
			})
		},
	}
}

// sessionStats writes a session's counts.
func (c *cli) sessionStats(s *conversation.Session) error {
	if c.out.format != formatTable {
		return c.out.one(s, nil)
	}
	type fact struct {
		name  string
		value any
	}
	st := s.Stats
	mean := time.Duration(0)
	if st.Turns > 0 {
		mean = st.LatencySum / time.Duration(st.Turns)
	}
	facts := []fact{
		{"turns generated", st.Turns}, {"beside a branch", st.Branches}, {"not finished", st.Aborted}, {"in flight", len(s.Pending)}, {"branches", len(s.Heads)},
		{"with a window that left something out", st.Truncated},
		{"prompt tokens", st.PromptTokens}, {"reply tokens", st.CompletionTokens},
		{"mean time of a turn", mean.Round(time.Millisecond)}, {"longest", st.LatencyMax.Round(time.Millisecond)},
		{"messages stored", s.Messages}, {"bytes stored", s.Bytes}, {"turns dropped", s.Dropped}, {"turns forgotten", s.Forgotten},
		{"revision", s.Rev}, {"created", s.Created.UTC().Format(time.RFC3339)}, {"changed", s.Updated.UTC().Format(time.RFC3339)}, {"kept for", s.TTL},
	}
	return list(c.out, facts, row("SESSION", s.ID), func(f fact) string { return row(f.name, f.value) })
}
