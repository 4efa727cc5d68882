package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
)

// hangups brings SIGHUP, which asks for the configuration to be read again. A process whose terminal
// has gone gets the same signal: that one ends the returned context as Ctrl-C does. stop must be
// called.
func (c *cli) hangups(ctx context.Context) (_ context.Context, hangups <-chan os.Signal, stop func()) {
	ctx, interrupt := context.WithCancelCause(ctx)
	signals, out, done := make(chan os.Signal, 1), make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP)
	attended := opens(c.terminal)
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case s := <-signals:
				if attended && !opens(c.terminal) {
					interrupt(app.ErrInterrupted)
					return
				}
				select {
				case out <- s:
				default: // one that has not been looked at yet is as good
				}
			}
		}
	}()
	return ctx, out, func() {
		signal.Stop(signals)
		interrupt(nil)
		<-done
	}
}

func opens(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	return f.Close() == nil
}
