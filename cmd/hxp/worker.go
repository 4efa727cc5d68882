package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
)

func (c *cli) workerCommand() *cobra.Command {
	var o app.WorkerOptions
	cmd := &cobra.Command{
		Use:   "worker --model MODEL",
		Short: "Run one worker beside one engine",
		Long: `Pulls jobs of one model from the queue and has an engine generate. The engine is
anything that speaks vLLM's HTTP API: one that runs already, by its URL; vllm, which
the worker starts and watches over; or sim, which needs no GPU. SIGTERM drains:
what runs may finish for worker.drain_timeout, and goes back to the queue after
that. A change of the configuration file, or SIGHUP, has it read again.`,
		Example: `  hxp worker --model phi3 --engine http://127.0.0.1:8000
  hxp worker --model mixtral --engine vllm
  hxp worker --model mixtral --server nats://queue:4222 --creds worker.creds --slots 128`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Model == "" {
				return fmt.Errorf("%w: --model is missing (usage: %s)", app.ErrUsage, cmd.UseLine())
			}
			cfg, err := c.config()
			if err != nil {
				return err
			}
			ctx, hangup, stop := c.hangups(cmd.Context())
			defer stop()
			o.Hangup, o.Stderr, o.Started = hangup, c.out.progress, c.started
			return app.Worker(ctx, cfg, o)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Model, "model", "m", "", "`name` of the model to serve (required)")
	f.StringVar(&o.Engine, "engine", "", "`URL` of the engine, vllm to start one, or sim (default the model's configured engine, or port)")
	f.StringVar(&o.ID, "id", "", "`name` of the worker (default the model and a random suffix)")
	c.setting(cmd, "slots", "worker.slots", "`number` of sequences that run at once", false)
	c.setting(cmd, "drain-timeout", "worker.drain_timeout", "`time` that jobs in flight have to finish", false)
	c.setting(cmd, "listen", "http.listen", "`address` for health and metrics", false)
	return cmd
}
