package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
)

func (c *cli) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show or check the configuration",
		Long: `The configuration is built-in defaults, then YAML files, then the environment
(HXP_ and a setting's path, as in HXP_WORKER_SLOTS), then flags; the later wins.`,
		Example: `  hxp config
  hxp config check hxp.yaml`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return c.showConfig() },
	}
	cmd.AddCommand(
		&cobra.Command{
			Use:   "show",
			Short: "Print every setting, its value and where that was written",
			Example: `  hxp config show
  hxp config show -o json | jq '.[] | select(.source.layer != "default")'`,
			Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return c.showConfig() },
		},
		&cobra.Command{
			Use:   "check [FILE...]",
			Short: "Report every fault of the configuration at once",
			Example: `  hxp config check
  hxp config check base.yaml site.yaml`,
			RunE: func(_ *cobra.Command, args []string) error { return c.checkConfig(args) },
		},
	)
	return cmd
}

func (c *cli) showConfig() error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	return list(c.out, cfg.Settings(), row("SETTING", "VALUE", "FROM"), func(s app.Setting) string {
		return row(s.Path, fmt.Sprint(s.Value), s.Source)
	})
}

func (c *cli) checkConfig(files []string) error {
	c.files = append(c.files, files...)
	cfg, err := c.config()
	if err == nil {
		err = cfg.CheckFiles()
	}
	if ce, ok := errors.AsType[*app.ConfigError](err); ok && c.out.format != formatTable {
		return errors.Join(list(c.out, ce.Faults, "", nil), quietError{exitUsage})
	}
	if err != nil {
		return err
	}
	for _, n := range cfg.Notices {
		c.out.say("notice: %s\n", n)
	}
	if c.out.format != formatTable {
		return list(c.out, []app.Fault{}, "", nil)
	}
	c.out.say("ok: %d models, %d settings\n", len(cfg.Models), len(cfg.Settings()))
	return nil
}
