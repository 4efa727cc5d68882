package embedded

import (
	"errors"
	"fmt"
	"strings"

	"github.com/rs/zerolog"
)

// serverLog passes the server's warnings and errors on, and catches what the server calls fatal:
// its own logger would end the process there.
type serverLog struct {
	log   zerolog.Logger
	fatal chan error
}

func newServerLog(log zerolog.Logger) *serverLog {
	return &serverLog{log: log.With().Str("component", "nats-server").Logger(), fatal: make(chan error, 1)}
}

func (l *serverLog) fail(err error) {
	select {
	case l.fatal <- err:
	default: // the first one is the reason for the others
	}
}

func (l *serverLog) Fatalf(format string, v ...any) {
	l.fail(errors.New(strings.TrimSpace(fmt.Sprintf(format, v...))))
}

func (l *serverLog) Errorf(format string, v ...any) { l.write(zerolog.ErrorLevel, format, v) }
func (l *serverLog) Warnf(format string, v ...any)  { l.write(zerolog.WarnLevel, format, v) }

func (l *serverLog) Noticef(string, ...any) {}
func (l *serverLog) Debugf(string, ...any)  {}
func (l *serverLog) Tracef(string, ...any)  {}

func (l *serverLog) write(level zerolog.Level, format string, v []any) {
	l.log.WithLevel(level).Str("text", strings.TrimSpace(fmt.Sprintf(format, v...))).Msg("nats-server")
}
