package main

import (
	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
)

func (c *cli) simCommand() *cobra.Command {
	o := app.SimOptions{Timing: app.DefaultTiming()}
	cmd := &cobra.Command{
		Use:   "sim MODEL",
		Short: "Run a simulated engine of one model: vLLM's HTTP API without a GPU",
		Example: `  hxp sim phi3
  hxp sim mixtral --listen 127.0.0.1:8000 --ttft 200ms --itl 25ms`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			o.Model, o.Stderr = args[0], c.out.progress
			if c.started != nil {
				o.Started = func(address string) {
					c.started(app.Running{Engines: map[string]string{o.Model: "http://" + address}})
				}
			}
			return app.Sim(cmd.Context(), cfg, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Listen, "listen", "", "`address` (default the model's configured port)")
	f.DurationVar(&o.Timing.TTFT, "ttft", o.Timing.TTFT, "time to the first token")
	c.profileFlag(cmd)
	f.DurationVar(&o.Timing.ITL, "itl", o.Timing.ITL, "time between tokens")
	return cmd
}
