package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
)

func (c *cli) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Say in words why nothing is moving, or what soon will not",
		Long: `Looks at the server, the streams, every model's queue and workers, dead letters,
clocks and bounds, and changes nothing. Each finding says what is the case, why,
and what to do. Exits with 1 if anything is a problem.`,
		Example: `  hxp doctor
  hxp doctor -o json | jq '.[] | select(.level == "problem")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			ctx, cancel := c.bounded(cmd.Context(), askWithin)
			defer cancel()
			conn, err := app.Connect(ctx, cfg, "hxp doctor", nil)
			if err == nil {
				defer conn.Close()
			}
			findings := app.Diagnose(ctx, cfg, conn, err)
			if err := c.findings(findings); err != nil {
				return err
			}
			if !app.Healthy(findings) {
				return quietError{exitFailed}
			}
			return nil
		},
	}
}

func (c *cli) findings(all []app.Finding) error {
	if c.out.format != formatTable {
		return list(c.out, all, "", nil)
	}
	colors := map[app.Level]int{app.Fine: 32, app.Warning: 33, app.Problem: 31}
	var b strings.Builder
	for _, f := range all {
		fmt.Fprintf(&b, "%s %s\n", c.out.paint(colors[f.Level], fmt.Sprintf("%-8s", f.Level)), f.What)
		for _, line := range []struct{ name, text string }{{"why", f.Why}, {"do", f.Do}} {
			if line.text != "" {
				fmt.Fprintf(&b, "         %-4s %s\n", line.name+":", line.text)
			}
		}
	}
	return c.out.write(b.String())
}
