package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/schemas"
)

// maxPrompt bounds what is read from stdin or a file: the largest message of a NATS server is 64 MiB.
const maxPrompt = 64 << 20

func (c *cli) runCommand() *cobra.Command {
	var p promptFlags
	var place sessionFlags
	cmd := &cobra.Command{
		Use:   "run MODEL [PROMPT...]",
		Short: "Submit a prompt and stream the answer",
		Long: `Submits a prompt, writes the text to stdout as it arrives and a line about tokens
and times to stderr. Without a prompt, or with -, the prompt is read from stdin.
Ctrl-C cancels the job on the cluster, so that no GPU works for nobody.

With --session the prompt is the next message of a stored conversation: the worker
puts the history in front of it and keeps the reply. See hxp chat and hxp session.`,
		Example: `  hxp run phi3 "Why is the sky blue?"
  hxp run mixtral --system "Answer in French." --max-tokens 200 "Hello"
  git diff | hxp run hermes "Review this change:" -
  hxp run phi3 --session trip "And on the second day?"
  hxp run phi3 -o json "Hello" | jq .usage`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			prompt, err := c.prompt(cmd, &p, args)
			if err != nil {
				return err
			}
			prompt.Stream = c.out.format == formatTable
			job, err := prompt.Job()
			if err != nil {
				return err
			}
			if err := place.place(&job, prompt); err != nil {
				return err
			}
			return c.with(cmd, 0, func(ctx context.Context, _ *app.Config, client *app.Client) error {
				w := app.Watcher{}
				if prompt.Stream {
					w = c.printer()
				}
				r, err := client.Generate(ctx, job, w)
				if err != nil {
					return err
				}
				return c.result(r, prompt.Stream)
			})
		},
	}
	p.declare(cmd, schemas.Interactive)
	place.declare(cmd)
	return cmd
}

// promptFlags are the flags of a prompt.
type promptFlags struct {
	prompt      app.Prompt
	class       string
	temperature float64
}

func (p *promptFlags) declare(cmd *cobra.Command, class schemas.Class) {
	f := cmd.Flags()
	f.StringVar(&p.prompt.System, "system", "", "system `prompt`")
	f.IntVar(&p.prompt.MaxTokens, "max-tokens", 0, "generate at most this many tokens")
	f.Float64Var(&p.temperature, "temperature", 0, "sampling temperature (default the model's own)")
	f.StringVar(&p.class, "class", string(class), "`class` of the job: interactive, standard or batch")
	f.BoolVar(&p.prompt.Raw, "raw", false, "send the prompt to the completions endpoint, without the chat template")
}

// prompt puts a prompt together from flags, arguments and stdin.
func (c *cli) prompt(cmd *cobra.Command, p *promptFlags, args []string) (app.Prompt, error) {
	out := p.prompt
	out.Model, out.Class = args[0], schemas.Class(p.class)
	if !out.Class.Valid() {
		return out, fmt.Errorf("%w: --class %q is none of interactive, standard, batch", app.ErrUsage, p.class)
	}
	if cmd.Flags().Changed("temperature") {
		out.Temperature = &p.temperature
	}
	words := args[1:]
	if len(words) == 0 {
		if terminal(c.stdin) {
			return out, fmt.Errorf("%w: no prompt is given (usage: %s)", app.ErrUsage, cmd.UseLine())
		}
		words = []string{"-"}
	}
	for i, w := range words {
		if w != "-" {
			continue
		}
		text, err := readBounded(c.stdin)
		if err != nil {
			return out, fmt.Errorf("read the prompt from stdin: %w", err)
		}
		words[i] = strings.TrimRight(string(text), "\n")
	}
	out.Text = strings.Join(words, " ")
	return out, nil
}

func readBounded(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxPrompt+1))
	if err == nil && len(text) > maxPrompt {
		err = fmt.Errorf("it is longer than %d bytes", maxPrompt)
	}
	return text, err
}

// printer writes text to stdout as it arrives.
func (c *cli) printer() app.Watcher {
	return app.Watcher{
		Text: c.out.show,
		Restarted: func(why string) {
			c.out.say("\nhxp: %s\n", why)
		},
	}
}

// result writes a Result: after its text has been streamed only what is left to say.
func (c *cli) result(r *schemas.Result, streamed bool) error {
	err := c.out.one(r, func() error {
		text := r.Text
		if streamed {
			text = ""
		}
		if r.Text == "" || strings.HasSuffix(r.Text, "\n") {
			return c.out.show(text)
		}
		return c.out.show(text + "\n")
	})
	if err != nil {
		return err
	}
	if c.out.format == formatTable {
		c.out.say("%s\n", usageLine(r))
		c.sayTurn(r.Turn)
	}
	return outcome(r)
}

// usageLine sums a generation up.
func usageLine(r *schemas.Result) string {
	parts := []string{"job " + r.ID}
	if r.Usage != nil {
		parts = append(parts, fmt.Sprintf("%d+%d tokens", r.Usage.PromptTokens, r.Usage.CompletionTokens))
	}
	if r.Timings.TTFT > 0 {
		parts = append(parts, fmt.Sprintf("ttft %.0f ms", r.Timings.TTFT))
	}
	if decode := r.Timings.Generate - r.Timings.TTFT; r.Usage != nil && r.Usage.CompletionTokens > 1 && decode > 0 {
		parts = append(parts, fmt.Sprintf("%.0f tok/s", float64(r.Usage.CompletionTokens-1)/decode*1000))
	}
	parts = append(parts, fmt.Sprintf("total %.0f ms", r.Timings.Total))
	if r.Attempts > 1 {
		parts = append(parts, fmt.Sprintf("%d attempts", r.Attempts))
	}
	return strings.Join(parts, " · ")
}
