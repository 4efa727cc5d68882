package main

import (
	"cmp"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: `  hxp version -o json`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := c.out.check(); err != nil {
				return err
			}
			v := map[string]string{"version": versionOf(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			return c.out.one(v, func() error {
				return c.out.write("hxp " + v["version"] + " (" + v["go"] + ", " + v["platform"] + ")\n")
			})
		},
	}
}

// versionOf is the linker's version, or else that of the module, or else the revision that was built.
func versionOf() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return cmp.Or(version, "dev")
	}
	module := info.Main.Version
	if module == "(devel)" {
		module = ""
	}
	revision := ""
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = s.Value
		}
	}
	return cmp.Or(version, module, revision, "dev")
}
