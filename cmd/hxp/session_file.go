package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/conversation"
)

func (c *cli) sessionExportCommand() *cobra.Command {
	var file, form, turn string
	cmd := &cobra.Command{
		Use:   "export ID",
		Short: "Write a session to stdout or a file",
		Long: `Writes a whole session as JSON, which hxp session import reads back, or one path of
it in ShareGPT's form, which has text alone. Here -o is the file; the form is
--format.`,
		Example: `  hxp session export ID -o rome.json
  hxp session export ID --format sharegpt --turn t-0192f0c1-7a3e-7cc0-9a55-1d2e3f4a5b6c >path.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if slices.Contains([]string{formatTable, formatJSON, formatNDJSON}, file) {
				return fmt.Errorf("%w: --output is the file of an export; its form is --format json or sharegpt (for a file of this name: ./%s)", app.ErrUsage, file)
			}
			return c.withSessions(cmd, func(ctx context.Context, s *app.Sessions) error {
				data, lost, err := s.Export(ctx, args[0], form, turn)
				if err != nil {
					return err
				}
				c.lost(lost)
				if file == "" || file == "-" {
					return c.out.write(string(data))
				}
				return writeNew(file, data)
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "output", "o", "", "write to a `file` that is not there yet, instead of stdout")
	f.StringVar(&form, "format", app.FormJSON, "`form`: json, which is everything, or sharegpt")
	f.StringVar(&turn, "turn", "", "with sharegpt: `id` of the path's last turn (default the active branch's)")
	return cmd
}

// lost says what an export could not hold.
func (c *cli) lost(parts int) {
	if parts > 0 {
		c.out.say("hxp: %s without text, such as images, have no place in this form and were left out\n", count(parts, "part"))
	}
}

// writeNew writes a file that only its owner can read, and replaces none.
func writeNew(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path)) // half a session is none
	}
	return nil
}

func (c *cli) sessionImportCommand() *cobra.Command {
	var into conversation.NewSession
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Make sessions of a file, or - for stdin, and print their ids",
		Long: `Reads what hxp session export wrote, or conversations in ShareGPT's form: one, an
array of them, or one after the other as in a JSONL file. The form is recognised.`,
		Example: `  hxp session import rome.json
  hxp session import --user ada --model hermes sharegpt.json
  hxp session export ID | hxp session import - --title "A copy"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := c.stdin
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return fmt.Errorf("%w: %w", app.ErrUsage, err)
				}
				defer func() { _ = f.Close() }() // it is only read
				in = f
			}
			return c.withSessions(cmd, func(ctx context.Context, s *app.Sessions) error { return c.importSessions(ctx, s, in, into) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&into.User, "user", "", "`user` who owns them (default as in the file)")
	f.StringVar(&into.Title, "title", "", "`title` (default as in the file)")
	f.StringVar(&into.Model, "model", "", "`model` (default as in the file)")
	f.StringVar(&into.System, "system", "", "system `prompt` (default as in the file)")
	return cmd
}

// importSessions imports and writes what was made.
func (c *cli) importSessions(ctx context.Context, s *app.Sessions, in io.Reader, into conversation.NewSession) error {
	made, err := s.Import(ctx, in, into)
	if err != nil && len(made) == 0 {
		return err
	}
	return errors.Join(err, list(c.out, made, row("SESSION", "TITLE", "MESSAGES"), func(x *conversation.Session) string {
		return row(x.ID, short(x.Title), x.Messages)
	}))
}
