package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
)

// cli is what all commands share: the streams and the global flags.
type cli struct {
	stdin   io.Reader
	environ []string
	out     output
	started func(app.Running) // tests learn here where up and worker listen

	// interrupts hands a Ctrl-C to what wants it in place of the program.
	interrupts interrupts

	// terminal is the controlling terminal's name; "" where it does not matter.
	terminal string

	files, sets []string
	timeout     time.Duration
	flags       []app.FlagValue
}

// run runs one command line and returns its exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, environ []string) int {
	return newCLI(stdin, stdout, stderr, environ).run(ctx, args)
}

func newCLI(stdin io.Reader, stdout, stderr io.Writer, environ []string) *cli {
	return &cli{stdin: stdin, environ: environ, out: newOutput(stdout, stderr, environ), terminal: "/dev/tty"}
}

func (c *cli) run(ctx context.Context, args []string) int {
	root := c.root()
	ctx = context.WithValue(ctx, argsKey{}, args)
	root.SetArgs(append([]string{}, args...)) // never nil, for which cobra takes the process's own
	root.SetIn(c.stdin)
	root.SetOut(c.out.data)
	root.SetErr(c.out.progress)
	err := root.ExecuteContext(ctx)
	if err != nil && err.Error() != "" {
		c.out.say("hxp: %s\n", strings.TrimPrefix(err.Error(), app.ErrUsage.Error()+": "))
	}
	return exitCode(ctx, err)
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "hxp",
		Short: "Queue-driven LLM inference over NATS JetStream",
		Long: `hxp runs LLM inference behind a queue: jobs wait in NATS JetStream, workers beside
the GPUs have vLLM generate, and tokens stream back.

Data goes to stdout, progress to stderr. Exit codes: 0 ok, 1 the job failed,
2 usage or configuration, 3 cannot connect, 4 not allowed, 5 timed out,
6 partly done, 130 interrupted.

Secrets are never arguments: NATS_USER and NATS_PASSWORD, or a file with --creds.`,
		Example: `  hxp up                                  # everything in one process, no GPU needed
  hxp run phi3 "Why is the sky blue?"     # submit a job and stream its text
  hxp chat phi3                           # talk; what was said is kept
  hxp doctor                              # why is nothing moving?`,
		SilenceUsage: true, SilenceErrors: true,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w: %w (%s --help)", app.ErrUsage, err, cmd.CommandPath())
	})
	g := root.PersistentFlags()
	g.StringArrayVarP(&c.files, "config", "c", nil, "configuration `file`; repeat to lay one over another (HXP_CONFIG; default hxp.yaml if it exists)")
	g.StringArrayVar(&c.sets, "set", nil, "override one setting, as `path=value`; repeatable")
	c.setting(root, "server", "nats.url", "`URL` of the NATS server (NATS_URL; default nats://127.0.0.1:4222)", true)
	c.setting(root, "creds", "nats.creds", "credentials `file` for the NATS server (NATS_CREDS)", true)
	c.setting(root, "tenant", "tenant", "`name` of the tenant that owns the jobs (HXP_TENANT; default default)", true)
	c.setting(root, "log-level", "log.level", "`level` of the log: debug, info, warn, error, disabled", true)
	g.DurationVar(&c.timeout, "timeout", 0, "give up after this long (default 10s for commands that only ask, none for those that wait for a job)")
	g.StringVarP(&c.out.format, "output", "o", formatTable, "`format` of the data: table, json or ndjson")
	root.AddCommand(
		c.upCommand(), c.workerCommand(), c.simCommand(),
		c.runCommand(), c.chatCommand(), c.sessionCommand(),
		c.submitCommand(), c.watchCommand(), c.getCommand(), c.cancelCommand(),
		c.deadCommand(), c.batchCommand(), c.queueCommand(), c.workersCommand(), c.doctorCommand(), c.loadtestCommand(),
		c.configCommand(), c.versionCommand(),
	)
	checkArguments(root)
	return root
}

// checkArguments makes a wrong number of arguments, an unknown sub-command, or flags that exclude each other a usage error of every command.
func checkArguments(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(check(cmd, args), cmd.ValidateFlagGroups()); err != nil {
				return fmt.Errorf("%w: %w (usage: %s)", app.ErrUsage, err, cmd.UseLine())
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		checkArguments(sub)
	}
}

// setting declares a flag that is a setting of the configuration.
func (c *cli) setting(cmd *cobra.Command, name, path, usage string, persistent bool) {
	flags := cmd.Flags()
	if persistent {
		flags = cmd.PersistentFlags()
	}
	flags.Var(&settingFlag{c: c, path: path, name: name}, name, usage)
}

// settingFlag is a flag whose value goes over the configuration.
type settingFlag struct {
	c                 *cli
	path, name, value string
}

func (f *settingFlag) String() string { return f.value }

// Type is empty so that help shows the name in the usage text.
func (f *settingFlag) Type() string { return "string" }

// Set notes the value; Load looks at it.
func (f *settingFlag) Set(s string) error {
	f.value = s
	f.c.flags = append(f.c.flags, app.FlagValue{Path: f.path, Value: s, Flag: "--" + f.name})
	return nil
}

// config loads the configuration with the flags over it.
func (c *cli) config() (*app.Config, error) {
	if err := c.out.check(); err != nil {
		return nil, err
	}
	flags := c.flags
	for _, s := range c.sets {
		path, value, ok := strings.Cut(s, "=")
		if !ok {
			return nil, fmt.Errorf("%w: --set %q is not path=value", app.ErrUsage, s)
		}
		flags = append(flags, app.FlagValue{Path: path, Value: value, Flag: "--set"})
	}
	cfg, err := app.Load(app.LoadOptions{Files: c.files, Environ: c.environ, Flags: flags})
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("%w: %w", app.ErrUsage, err)
	}
	if err != nil {
		if _, ok := errors.AsType[*app.ConfigError](err); !ok {
			err = fmt.Errorf("%w: %w", app.ErrUsage, err)
		}
	}
	return cfg, err
}

// bounded ends ctx after --timeout, or after the command's own bound; 0 is none.
func (c *cli) bounded(ctx context.Context, own time.Duration) (context.Context, context.CancelFunc) {
	if c.timeout > 0 {
		own = c.timeout
	}
	if own == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, own, fmt.Errorf("not done after %s: %w", own, context.DeadlineExceeded))
}

// askWithin bounds commands that only ask.
const askWithin = 10 * time.Second

// with loads the configuration, connects as the configured tenant, calls f and disconnects. own bounds f.
func (c *cli) with(cmd *cobra.Command, own time.Duration, f func(ctx context.Context, cfg *app.Config, client *app.Client) error) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	ctx, cancel := c.bounded(cmd.Context(), own)
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	client, err := app.NewClient(ctx, cfg, cfg.Tenant, cmd.CommandPath(), fail)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := f(ctx, cfg, client); err != nil {
		return because(ctx, err)
	}
	return nil
}

// because puts why ctx ended before an error that may only say that it did.
func because(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if cause == nil || errors.Is(err, cause) {
		return err
	}
	if _, ok := errors.AsType[quietError](err); ok {
		return err
	}
	return fmt.Errorf("%w: %w", cause, err)
}
