package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/schemas"
)

// chatCommand is what can be typed in a chat besides a message.
type chatCommand struct {
	name, args, short string
	run               func(t *talk, ctx context.Context, rest string) error
}

// chatCommands lists them as /help does.
func chatCommands() []chatCommand {
	return []chatCommand{
		{"regenerate", "", "answer the last message again; the earlier reply is kept beside it", (*talk).regenerate},
		{"edit", "TEXT", "send another text in place of the last message", (*talk).edit},
		{"system", "[TEXT]", "show or set the system prompt", (*talk).system},
		{"new", "", "begin another session", (*talk).fresh},
		{"sessions", "[TITLE]", "list sessions, newest first", (*talk).list},
		{"switch", "ID|NR", "go on with a session, by its id or its number in the list", (*talk).switchTo},
		{"rename", "TITLE", "give the session a title", (*talk).rename},
		{"branch", "[NAME]", "list branches, or go on with one; a new one begins here", (*talk).branch},
		{"show", "", "print what was said", (*talk).show},
		{"tree", "", "draw all branches", (*talk).tree},
		{"save", "FILE [sharegpt]", "write the session to a new file", (*talk).save},
		{"load", "FILE", "make a session of a file and go on with it", (*talk).load},
		{"stats", "", "print the session's counts", (*talk).stats},
		{"help", "", "print this list", (*talk).help},
		{"bye", "", "end, as Ctrl-D does", func(*talk, context.Context, string) error { return errBye }},
	}
}

// completeCommand is what a line so far may become.
func completeCommand(line string) []string {
	var out []string
	for _, c := range chatCommands() {
		if full := "/" + c.name; line != "" && strings.HasPrefix(full, line) {
			if c.args != "" {
				full += " "
			}
			out = append(out, full)
		}
	}
	return out
}

// command runs a line that begins with a slash.
func (t *talk) command(ctx context.Context, line string) error {
	name, rest := line[1:], ""
	if i := strings.IndexAny(name, " \t\n"); i >= 0 {
		name, rest = name[:i], strings.TrimSpace(name[i:])
	}
	if name == "exit" || name == "quit" {
		name = "bye"
	}
	for _, c := range chatCommands() {
		if c.name != name {
			continue
		}
		switch {
		case c.args == "" && rest != "":
			return fmt.Errorf("%w: /%s takes nothing, and %q follows it", app.ErrUsage, name, rest)
		case c.args != "" && c.args[0] != '[' && rest == "":
			return fmt.Errorf("%w: usage: /%s %s", app.ErrUsage, name, c.args)
		}
		if name == "regenerate" || name == "edit" {
			return c.run(t, ctx, rest) // a turn has a bound of its own
		}
		ctx, cancel := t.bounded(ctx, askWithin)
		defer cancel()
		if err := c.run(t, ctx, rest); err != nil {
			return because(ctx, err)
		}
		return nil
	}
	return fmt.Errorf("%w: /%s is no command: /help lists them; a message that begins with a slash takes two", app.ErrUsage, name)
}

func (t *talk) regenerate(ctx context.Context, _ string) error { return t.turn(ctx, t.chat.Regenerate) }

func (t *talk) edit(ctx context.Context, text string) error {
	return t.turn(ctx, func(ctx context.Context, w app.TurnWatcher) (*schemas.Result, error) {
		return t.chat.Edit(ctx, text, w)
	})
}

func (t *talk) system(ctx context.Context, text string) error {
	if text != "" {
		return t.chat.SetSystem(ctx, text)
	}
	text, err := t.chat.System(ctx)
	if err != nil {
		return err
	}
	if text == "" {
		t.out.say("there is no system prompt; /system TEXT sets one\n")
		return nil
	}
	return t.out.show(text + "\n")
}

func (t *talk) fresh(context.Context, string) error {
	t.chat.New()
	t.out.say("the next message begins another session\n")
	return nil
}

func (t *talk) list(ctx context.Context, title string) error {
	threads, err := t.chat.List(ctx, title, 20)
	if err != nil {
		return err
	}
	nr := 0
	return list(t.out, threads, row("NR", "SESSION", "TITLE", "MESSAGES", "CHANGED"), func(x conversation.Thread) string {
		nr++
		mark := ""
		if x.ID == t.chat.Session() {
			mark = " *"
		}
		return row(fmt.Sprint(nr, mark), x.ID, short(x.Title), x.Messages, age(x.Updated))
	})
}

func (t *talk) switchTo(ctx context.Context, id string) error {
	path, err := t.chat.Switch(ctx, id)
	if err == nil {
		t.recap(path)
	}
	return err
}

func (t *talk) rename(ctx context.Context, title string) error { return t.chat.Rename(ctx, title) }

func (t *talk) branch(ctx context.Context, name string) error {
	if name == "" {
		all, err := t.chat.Branches(ctx)
		if err != nil {
			return err
		}
		return t.branches(all)
	}
	path, made, err := t.chat.UseBranch(ctx, name)
	switch {
	case err != nil:
		return err
	case made:
		t.out.say("branch %s begins after %s\n", name, path.Leaf)
	default:
		t.recap(path)
	}
	return nil
}

func (t *talk) show(ctx context.Context, _ string) error {
	path, err := t.chat.Path(ctx, 0)
	if err != nil {
		return err
	}
	return t.out.one(path, func() error { return t.out.write(path.Text(t.out.strong)) })
}

func (t *talk) tree(ctx context.Context, _ string) error {
	tree, err := t.chat.Tree(ctx)
	if err != nil {
		return err
	}
	return t.out.one(tree, func() error { return t.out.write(tree.Draw(treeWidth, t.out.strong)) })
}

func (t *talk) save(ctx context.Context, rest string) error {
	file, form := rest, app.FormJSON
	if name, ok := strings.CutSuffix(rest, " "+app.FormShareGPT); ok {
		file, form = strings.TrimSpace(name), app.FormShareGPT
	}
	data, lost, err := t.chat.Save(ctx, form)
	if err != nil {
		return err
	}
	if err := writeNew(file, data); err != nil {
		return err
	}
	t.lost(lost)
	t.out.say("saved to %s\n", file)
	return nil
}

func (t *talk) load(ctx context.Context, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it is only read
	path, err := t.chat.Load(ctx, f)
	t.recap(path)
	return err
}

func (t *talk) stats(ctx context.Context, _ string) error {
	s, err := t.chat.Stats(ctx)
	if err != nil {
		return err
	}
	return t.sessionStats(s)
}

func (t *talk) help(context.Context, string) error {
	commands := chatCommands()
	out := t.out
	out.format = formatTable
	return list(out, commands, row("COMMAND", "WHAT IT DOES"), func(c chatCommand) string {
		return row(strings.TrimSpace("/"+c.name+" "+c.args), c.short)
	})
}
