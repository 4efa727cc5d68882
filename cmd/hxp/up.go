package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
)

func (c *cli) upCommand() *cobra.Command {
	o := app.UpOptions{Timing: app.DefaultTiming()}
	var engines []string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run everything in one process: broker, Redis, engines, workers",
		Long: `Runs a NATS server, Redis, a worker for each model and, for each model that is
given no engine, a simulated one that needs no GPU. The first Ctrl-C drains the
workers and stops; a second one stops at once. A change of the configuration
file, or SIGHUP, has it read again.`,
		Example: `  hxp up
  hxp up --models phi3 --sim-itl 5ms
  hxp up --profile h100
  hxp up -c hxp.yaml --engine mixtral=vllm
  hxp up --engine mixtral=http://127.0.0.1:8000 --data /var/lib/hxp`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			if o.Engines, err = enginesByModel(engines); err != nil {
				return err
			}
			ctx, hangup, stop := c.hangups(cmd.Context())
			defer stop()
			o.Hangup, o.Version, o.Stderr, o.Started = hangup, versionOf(), c.out.progress, c.started
			return app.Up(ctx, cfg, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Data, "data", "", "`folder` for what is stored (default .hxp, or hxp under XDG_STATE_HOME)")
	f.StringSliceVar(&o.Models, "models", nil, "serve only these `models` (default all that are configured)")
	f.StringArrayVar(&engines, "engine", nil, "the engine of a model, as `model=URL`, model=vllm to start one, or model=sim; repeatable")
	f.DurationVar(&o.Timing.TTFT, "sim-ttft", o.Timing.TTFT, "time to the first token of simulated engines")
	f.DurationVar(&o.Timing.ITL, "sim-itl", o.Timing.ITL, "time between tokens of simulated engines")
	c.profileFlag(cmd)
	f.BoolVar(&o.RandomPorts, "random-ports", false, "listen on free ports instead of the configured ones")
	f.BoolVar(&o.InMemoryRedis, "redis-in-memory", false, "start no redis-server even if there is one")
	c.setting(cmd, "nats-listen", "nats.listen", "`address` of the NATS server", false)
	c.setting(cmd, "redis-listen", "redis.listen", "`address` of the Redis that keeps conversations", false)
	c.setting(cmd, "listen", "http.listen", "`address` for health and metrics", false)
	return cmd
}

// profileFlag declares the flag that makes simulated engines as fast as those of a kind of GPU.
func (c *cli) profileFlag(cmd *cobra.Command) {
	c.setting(cmd, "profile", "sim.profile", "simulated engines as fast as published figures of a `GPU`: h100 (sim.profile)", false)
}

func enginesByModel(flags []string) (map[string]string, error) {
	out := map[string]string{}
	for _, s := range flags {
		model, url, ok := strings.Cut(s, "=")
		if !ok || model == "" || url == "" {
			return nil, fmt.Errorf("%w: --engine %q is not model=URL", app.ErrUsage, s)
		}
		out[model] = url
	}
	return out, nil
}
