package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/schemas"
)

func (c *cli) submitCommand() *cobra.Command {
	var p promptFlags
	var file, id string
	var wait bool
	cmd := &cobra.Command{
		Use:   "submit MODEL [PROMPT...]",
		Short: "Submit a job and print its id",
		Long: `Stores a job in the queue and prints its id: from then on it is answered, whoever
dies meanwhile. The job is a prompt, or with -f the body of an OpenAI request.
Submitting the same --id again does nothing.`,
		Example: `  hxp submit phi3 "Write a haiku about queues"
  hxp submit mixtral -f request.json --class batch
  echo '{"messages":[{"role":"user","content":"Hi"}]}' | hxp submit phi3 -f - --wait`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			job, err := c.job(cmd, &p, file, args)
			if err != nil {
				return err
			}
			job.ID = id
			bound := askWithin
			if wait {
				bound = 0
			}
			return c.with(cmd, bound, func(ctx context.Context, _ *app.Config, client *app.Client) error {
				s, err := client.Submit(ctx, job)
				if err != nil {
					return client.Explain(err)
				}
				defer s.Close()
				if s.Duplicate() {
					c.out.say("hxp: job %s had been submitted before\n", s.Job().ID)
				}
				if !wait {
					return c.out.one(map[string]string{"id": s.Job().ID}, func() error { return c.out.write(s.Job().ID + "\n") })
				}
				c.out.say("job %s\n", s.Job().ID)
				r, err := s.Result(ctx)
				if err != nil {
					return client.Explain(err)
				}
				return c.result(r, false)
			})
		},
	}
	p.declare(cmd, schemas.Standard)
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "", "read the request's body, a JSON object, from a `file`; - is stdin")
	f.StringVar(&id, "id", "", "`id` of the job (default a new one)")
	f.BoolVarP(&wait, "wait", "w", false, "wait for the job and print its result")
	return cmd
}

// job is the job of a file, or of a prompt.
func (c *cli) job(cmd *cobra.Command, p *promptFlags, file string, args []string) (schemas.Job, error) {
	if file == "" {
		prompt, err := c.prompt(cmd, p, args)
		if err != nil {
			return schemas.Job{}, err
		}
		prompt.Stream = true
		return prompt.Job()
	}
	if len(args) > 1 {
		return schemas.Job{}, fmt.Errorf("%w: a prompt does not go with --file", app.ErrUsage)
	}
	class := schemas.Class(p.class)
	if !class.Valid() {
		return schemas.Job{}, fmt.Errorf("%w: --class %q is none of interactive, standard, batch", app.ErrUsage, p.class)
	}
	in := c.stdin
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return schemas.Job{}, fmt.Errorf("%w: %w", app.ErrUsage, err)
		}
		defer func() { _ = opened.Close() }() // it is only read
		in = opened
	}
	body, err := readBounded(in)
	if err != nil {
		return schemas.Job{}, fmt.Errorf("read the body from %s: %w", file, err)
	}
	if !json.Valid(body) {
		return schemas.Job{}, fmt.Errorf("%w: %s is not JSON", app.ErrUsage, file)
	}
	return schemas.Job{Model: args[0], Class: class, Body: body}, nil
}
