package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Sentinels for what a command's exit code tells apart.
var (
	// ErrCannotConnect says that no server answered at the address.
	ErrCannotConnect = errors.New("cannot connect")
	// ErrNotAllowed says that the server refused who we are or what we asked for.
	ErrNotAllowed = errors.New("not allowed")
)

// Connection is the way to the queue.
type Connection struct {
	NC *nats.Conn
	JS jetstream.JetStream

	// denied is the last refusal: the server reports a forbidden publish apart from the publish
	// itself, whose caller sees only that nothing answers.
	denied   atomic.Pointer[error]
	onDenied func(error)
	closed   chan struct{}
}

// Connect connects to nats.url. name is shown in the server's list of connections. Once connected,
// it reconnects for as long as it takes. ctx bounds the dialling. onDenied, which may be nil, hears of
// everything that the server forbids later on.
func Connect(ctx context.Context, cfg *Config, name string, onDenied func(error)) (*Connection, error) {
	c := &Connection{closed: make(chan struct{}), onDenied: onDenied}
	nc, err := nats.Connect(cfg.NATS.URL, append(c.options(cfg, name), nats.SetCustomDialer(dialer{ctx, cfg.NATS.Timeout}))...)
	shown := maskURL(cfg.NATS.URL)
	switch {
	case err == nil:
	case refusal(err):
		return nil, fmt.Errorf("%w: the NATS server at %s: %w: check nats.creds (--creds, NATS_CREDS) or NATS_USER and NATS_PASSWORD", ErrNotAllowed, shown, err)
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	default:
		return nil, fmt.Errorf("%w to NATS at %s: %w: is it running? start one with hxp up, or name another with --server", ErrCannotConnect, shown, err)
	}
	return c.over(nc)
}

// over makes c the connection over nc, and closes nc if it cannot.
func (c *Connection) over(nc *nats.Conn) (*Connection, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("JetStream: %w", err)
	}
	c.NC, c.JS = nc, js
	return c, nil
}

func (c *Connection) options(cfg *Config, name string) []nats.Option {
	opts := []nats.Option{
		nats.Name(name), nats.Timeout(cfg.NATS.Timeout), nats.MaxReconnects(-1),
		// A server that is cut off without a word is to be noticed in seconds; nats.go's own minutes are for idle clients.
		nats.PingInterval(5 * time.Second), nats.MaxPingsOutstanding(2),
		nats.ReconnectWait(250 * time.Millisecond), nats.ReconnectJitter(100*time.Millisecond, 500*time.Millisecond),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if refusal(err) {
				c.denied.Store(&err)
				if c.onDenied != nil {
					c.onDenied(fmt.Errorf("%w: %w", ErrNotAllowed, err))
				}
			}
		}),
		nats.ClosedHandler(func(*nats.Conn) { close(c.closed) }),
	}
	if cfg.NATS.Creds != "" {
		opts = append(opts, nats.UserCredentials(cfg.NATS.Creds))
	}
	if cfg.NATS.User != "" {
		opts = append(opts, nats.UserInfo(cfg.NATS.User, cfg.NATS.Password))
	}
	if cfg.NATS.CA != "" {
		opts = append(opts, nats.RootCAs(cfg.NATS.CA))
	}
	return opts
}

// dialer dials until ctx ends, but for reconnections, which outlive it.
type dialer struct {
	ctx     context.Context // nats.go's own dialer takes none
	timeout time.Duration
}

func (d dialer) Dial(network, address string) (net.Conn, error) {
	ctx := d.ctx
	if ctx.Err() != nil {
		ctx = context.WithoutCancel(ctx)
	}
	return (&net.Dialer{Timeout: d.timeout}).DialContext(ctx, network, address)
}

func refusal(err error) bool {
	for _, target := range []error{
		nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrPermissionViolation,
		nats.ErrAccountAuthExpired, nats.ErrNkeysNotSupported,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// Explain replaces an error that only says that nothing answered by what the server refused meanwhile.
func (c *Connection) Explain(err error) error {
	denied := c.denied.Load()
	if err == nil || denied == nil || errors.Is(err, ErrNotAllowed) {
		return err
	}
	return fmt.Errorf("%w: %w: %w", ErrNotAllowed, *denied, err)
}

// Closed is closed when the connection is, which without a Close means that the server turned it away for good.
func (c *Connection) Closed() <-chan struct{} { return c.closed }

// Close sends what is pending and closes the connection.
func (c *Connection) Close() {
	if c.NC.IsConnected() {
		_ = c.NC.FlushTimeout(time.Second) // whoever needs an answer has waited for it
	}
	c.NC.Close()
	<-c.closed
}
