package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
)

// version is set by the linker.
var version string

func main() {
	ctx, interrupt := context.WithCancelCause(context.Background())
	c := newCLI(os.Stdin, os.Stdout, os.Stderr, os.Environ())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		for s := range signals {
			if s == syscall.SIGTERM || !c.interrupts.taken() {
				break
			}
		}
		interrupt(app.ErrInterrupted)
		<-signals
		os.Exit(exitInterrupted) // children end with this process
	}()
	os.Exit(c.run(ctx, os.Args[1:]))
}
