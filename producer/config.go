package producer

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/rs/zerolog"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Config of a [Client]. The zero value is ready for use.
type Config struct {
	// Tenant owns every job of the client. Defaults to "default".
	Tenant string
	// Name is the client's token in the subject of its events. Random by default; clients that
	// share a name receive each other's events for nothing.
	Name string
	// Domain is the JetStream domain to use, if any.
	Domain string
	// APIPrefix is the prefix of the JetStream API, where it is imported under another name. Not with Domain.
	APIPrefix string
	// SubmitTimeout is how long a Submit may take, all its attempts together. Defaults to 5 s.
	SubmitTimeout time.Duration
	// AttemptTimeout is how long one attempt to publish waits for the queue's acknowledgement
	// before it is sent again under the same id. Defaults to 1 s.
	AttemptTimeout time.Duration
	// InlineBytes is the size of the largest body that travels in its job's message; a larger one is
	// uploaded first. Defaults to 512 KiB.
	InlineBytes int
	// MaxBodyBytes is the size of the largest body. Defaults to 16 MiB, which is also what a worker takes.
	MaxBodyBytes int
	// Buffer is how many live events a stream holds for its reader. Defaults to 4096.
	Buffer int
	// BufferBytes is how many bytes of them it holds. Defaults to 8 MiB.
	BufferBytes int
	// IdleCheck is after how much silence a stream looks at the record and at the Result. Defaults to 5 s.
	IdleCheck time.Duration
	// GapWait is how long a stream waits for missing events to appear in the record, which is
	// written shortly after the live event. Defaults to 2 s.
	GapWait time.Duration
	// CancelWait is how long a cancel waits for the worker that runs the job to answer before it
	// takes the job for queued. Defaults to 250 ms.
	CancelWait time.Duration
	// UnknownAfter ends a followed stream with [ErrUnknownJob] when nothing is known of the job for
	// that long. 0, the default, waits as long as the context: the job may be queued.
	UnknownAfter time.Duration
	// Logger is told of messages that are not events. Defaults to none.
	Logger zerolog.Logger
}

func (c Config) withDefaults() Config {
	c.Tenant = cmp.Or(c.Tenant, "default")
	if c.Name == "" {
		c.Name = nuid.Next()
	}
	c.SubmitTimeout = cmp.Or(c.SubmitTimeout, 5*time.Second)
	c.AttemptTimeout = cmp.Or(c.AttemptTimeout, time.Second)
	c.InlineBytes = cmp.Or(c.InlineBytes, 512<<10)
	c.MaxBodyBytes = cmp.Or(c.MaxBodyBytes, 16<<20)
	c.Buffer = cmp.Or(c.Buffer, 4096)
	c.BufferBytes = cmp.Or(c.BufferBytes, 8<<20)
	c.IdleCheck = cmp.Or(c.IdleCheck, 5*time.Second)
	c.GapWait = cmp.Or(c.GapWait, 2*time.Second)
	c.CancelWait = cmp.Or(c.CancelWait, 250*time.Millisecond)
	return c
}

func (c Config) validate() error {
	var errs []error
	for _, f := range []struct{ name, value string }{{"Tenant", c.Tenant}, {"Name", c.Name}} {
		if err := schemas.CheckToken(f.value); err != nil {
			errs = append(errs, fmt.Errorf("%s %w", f.name, err))
		}
	}
	if c.Domain != "" && c.APIPrefix != "" {
		errs = append(errs, fmt.Errorf("Domain %q and APIPrefix %q are both set; want at most one", c.Domain, c.APIPrefix))
	}
	for _, f := range []struct {
		name  string
		value time.Duration
	}{
		{"SubmitTimeout", c.SubmitTimeout}, {"AttemptTimeout", c.AttemptTimeout}, {"IdleCheck", c.IdleCheck},
		{"GapWait", c.GapWait}, {"CancelWait", c.CancelWait},
	} {
		if f.value <= 0 {
			errs = append(errs, fmt.Errorf("%s is %v; want more than 0", f.name, f.value))
		}
	}
	if c.UnknownAfter < 0 {
		errs = append(errs, fmt.Errorf("UnknownAfter is %v; want 0 or more", c.UnknownAfter))
	}
	for _, f := range []struct {
		name  string
		value int
	}{{"InlineBytes", c.InlineBytes}, {"MaxBodyBytes", c.MaxBodyBytes}} {
		if f.value < 1 {
			errs = append(errs, fmt.Errorf("%s is %d; want at least 1", f.name, f.value))
		}
	}
	if c.Buffer < 1 {
		errs = append(errs, fmt.Errorf("Buffer is %d; want at least 1", c.Buffer))
	}
	if c.BufferBytes < 1 {
		errs = append(errs, fmt.Errorf("BufferBytes is %d; want at least 1", c.BufferBytes))
	}
	return errors.Join(errs...)
}

func (c Config) jetStream(nc *nats.Conn) (jetstream.JetStream, error) {
	switch {
	case c.Domain != "":
		return jetstream.NewWithDomain(nc, c.Domain)
	case c.APIPrefix != "":
		return jetstream.NewWithAPIPrefix(nc, c.APIPrefix)
	default:
		return jetstream.New(nc)
	}
}
