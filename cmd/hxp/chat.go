package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/cmd/internal/prompt"
	"github.com/hxp-enterprise/hxp/schemas"
)

func (c *cli) chatCommand() *cobra.Command {
	o := app.ChatOptions{}
	var temperature float64
	var history string
	cmd := &cobra.Command{
		Use:   "chat MODEL",
		Short: "Talk with a model, turn by turn, in a stored conversation",
		Long: `Every message is a job with the session's id and the message alone; the worker puts
the history in front of it and keeps the reply. /help lists what can be done besides.

A message is a line; several are one if they are pasted together, if each but the
last ends with a backslash, or between """ and """. Ctrl-C stops the reply and not
the program; twice at the prompt, Ctrl-D or /bye ends it. --timeout bounds a turn.

Without a terminal every line of stdin is a turn, and the first that fails is the end.`,
		Example: `  hxp chat phi3
  hxp chat hermes --session trip --system "You are a travel agent."
  printf '%s\n' "My name is Ada." "What is my name?" | hxp chat openchat`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Model = args[0]
			if cmd.Flags().Changed("temperature") {
				o.Temperature = &temperature
			}
			if !cmd.Flags().Changed("history") {
				history = c.historyFile()
			}
			return c.chat(cmd, o, history)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Session, "session", "", "go on with a conversation, by its `id`; one that is not there is made (default a new one)")
	f.StringVar(&o.System, "system", "", "system `prompt`, kept with the session")
	f.StringVar(&o.User, "user", "", "`user` who owns new sessions and whose sessions are listed")
	f.IntVar(&o.MaxTokens, "max-tokens", 0, "generate at most this many tokens a turn")
	f.Float64Var(&temperature, "temperature", 0, "sampling temperature (default the model's own)")
	f.StringVar(&history, "history", "", "`file` that keeps typed lines, \"\" for none (default chat_history under XDG_STATE_HOME/hxp or ~/.local/state/hxp)")
	return cmd
}

// historyFile is where typed lines are kept; "" if there is no home for it.
func (c *cli) historyFile() string {
	vars := map[string]string{}
	for _, kv := range c.environ {
		k, v, _ := strings.Cut(kv, "=")
		vars[k] = v
	}
	switch {
	case filepath.IsAbs(vars["XDG_STATE_HOME"]):
		return filepath.Join(vars["XDG_STATE_HOME"], "hxp", "chat_history")
	case filepath.IsAbs(vars["HOME"]):
		return filepath.Join(vars["HOME"], ".local", "state", "hxp", "chat_history")
	}
	return ""
}

// talk is a chat on the command line.
type talk struct {
	*cli
	chat *app.Chat
	in   *prompt.Reader
	stopper
}

func (c *cli) chat(cmd *cobra.Command, o app.ChatOptions, history string) error {
	perTurn := c.timeout
	c.timeout = 0 // the chat has no bound of its own
	return c.with(cmd, 0, func(ctx context.Context, cfg *app.Config, client *app.Client) error {
		in, err := prompt.New(c.stdin, c.out.progress, prompt.Config{History: history, Complete: completeCommand})
		if err != nil {
			return err
		}
		c.timeout = perTurn
		t := &talk{cli: c, chat: app.NewChat(client, cfg, o), in: in}
		err = t.run(ctx)
		return errors.Join(err, t.chat.Close(), in.Close())
	})
}

// errBye ends a chat.
var errBye = errors.New("bye")

// run reads and answers until there is nothing more to read.
func (t *talk) run(ctx context.Context) error {
	path, err := t.chat.Open(ctx, t.watcher())
	if err != nil {
		return err
	}
	if t.in.Edited() {
		defer t.interrupts.offer(t.press)()
		t.out.say("/help lists what can be done; Ctrl-C stops a reply, Ctrl-D ends\n")
	}
	t.recap(path)
	for warned := false; ; {
		text, err := t.in.Read(ctx, ">>> ", "... ")
		long, tooLong := errors.AsType[*prompt.TooLongError](err)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, prompt.ErrInterrupted) && warned:
			return nil
		case errors.Is(err, prompt.ErrInterrupted):
			warned = true
			t.out.say("Ctrl-C again, Ctrl-D or /bye ends\n")
			continue
		case tooLong && t.in.Edited():
			t.out.say("hxp: %v; hxp run reads a longer prompt from stdin\n", long)
			continue
		case err != nil:
			return err
		}
		warned = false
		err = t.one(ctx, text)
		switch {
		case errors.Is(err, errBye):
			return nil
		case err != nil && (!t.in.Edited() || ctx.Err() != nil):
			return err
		case err != nil:
			t.out.say("hxp: %s\n", strings.TrimPrefix(err.Error(), app.ErrUsage.Error()+": "))
		}
	}
}

// errStopped is why something ends on Ctrl-C.
var errStopped = errors.New("stopped")

// one answers what was typed.
func (t *talk) one(ctx context.Context, text string) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	t.begin(func() { stop(errStopped) })
	defer t.end()
	switch trimmed := strings.TrimSpace(text); {
	case trimmed == "":
		return nil
	case strings.HasPrefix(trimmed, "//"): // a message that begins with a slash
		text = trimmed[1:]
	case strings.HasPrefix(trimmed, "/"):
		return t.command(ctx, trimmed)
	}
	return t.turn(ctx, func(ctx context.Context, w app.TurnWatcher) (*schemas.Result, error) { return t.chat.Say(ctx, text, w) })
}

// turn has a reply generated and shows it.
func (t *talk) turn(ctx context.Context, ask func(context.Context, app.TurnWatcher) (*schemas.Result, error)) error {
	ctx, cancel := t.bounded(ctx, 0)
	defer cancel()
	w := t.watcher()
	midLine := false
	if t.out.format == formatTable {
		w.Text = func(text string) error {
			midLine = !strings.HasSuffix(text, "\n")
			return t.out.show(text)
		}
	}
	r, err := ask(ctx, w)
	if midLine {
		err = errors.Join(err, t.out.write("\n"))
	}
	switch {
	case r == nil:
		return err
	case t.out.format != formatTable:
		return errors.Join(t.out.one(r, nil), firstError(err, outcome(r)))
	}
	if err == nil {
		t.out.say("%s\n", t.out.paint(faint, usageLine(r)))
	}
	t.after(r.Turn)
	return firstError(err, outcome(r))
}

// firstError is the first error there is.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// after says what became of a turn. At a terminal one that was stored as it should be needs no words.
func (t *talk) after(turn *schemas.Turn) {
	if turn == nil || !t.in.Edited() || turn.State != schemas.TurnStored || !turn.Head {
		t.sayTurn(turn)
	} else if turn.LeftOut != nil {
		t.out.say("hxp: %s\n", leftOutLine(turn.LeftOut))
	}
}

// watcher says what happens to a turn.
func (t *talk) watcher() app.TurnWatcher {
	return app.TurnWatcher{
		Void: func(why string) { t.out.say("\nhxp: the text so far is void: %s\n", why) },
		Note: func(text string) { t.out.say("\nhxp: %s\n", text) },
	}
}

// recap shows where a conversation stands.
func (t *talk) recap(path *app.SessionPath) {
	if path != nil {
		t.out.say("%s", t.out.paint(faint, fmt.Sprintf("session %s", path.Text(func(s string) string { return s }))))
	}
}
