package embedded

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
)

// Config says where and how large. Only Dir is required.
type Config struct {
	// Dir is where everything is stored: a directory of this server alone, made if it is missing.
	Dir string
	// Listen is the address for clients, host:port; the host must be a loopback address.
	// Port 0 or -1 takes any free port. Defaults to 127.0.0.1:4222.
	Listen string
	// MaxMemory bounds streams that are kept in memory. Defaults to 512 MiB.
	MaxMemory int64
	// MaxStore bounds streams that are kept on disk. Defaults to 16 GiB, or to nine tenths of what
	// is free on the disk if that is less.
	MaxStore int64
	// MaxPayload is the size of the largest message. Defaults to 8 MiB.
	MaxPayload int32
	// SyncAlways makes every stored message survive a power cut, at about a tenth of a millisecond
	// to several milliseconds each. Without it the disk is told every two minutes; what was
	// acknowledged survives the death of the process, but not of the machine.
	SyncAlways bool
	// StartTimeout is how long the server may take to read its store. Defaults to 30 s.
	StartTimeout time.Duration
	// Logger receives the server's warnings and errors.
	Logger zerolog.Logger
}

// Defaults of [Config].
const (
	DefaultListen             = "127.0.0.1:4222"
	defaultMaxMemory          = 512 << 20
	defaultMaxStore           = 16 << 30
	defaultMaxPayload         = 8 << 20
	defaultStartTimeout       = 30 * time.Second
	minFree             int64 = 64 << 20
)

func (c Config) withDefaults() Config {
	c.Listen = cmp.Or(c.Listen, DefaultListen)
	c.MaxMemory = cmp.Or(c.MaxMemory, int64(defaultMaxMemory))
	c.MaxPayload = cmp.Or(c.MaxPayload, int32(defaultMaxPayload))
	c.StartTimeout = cmp.Or(c.StartTimeout, defaultStartTimeout)
	return c
}

func (c Config) validate() (host string, port int, err error) {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("dir is empty; want a directory for the server's data"))
	}
	host, port, err = loopback(c.Listen)
	errs = append(errs, err)
	for _, f := range []struct {
		name  string
		value int64
	}{{"max_memory", c.MaxMemory}, {"max_payload", int64(c.MaxPayload)}} {
		if f.value < 1 {
			errs = append(errs, fmt.Errorf("%s is %d; want at least 1", f.name, f.value))
		}
	}
	if c.MaxStore < 0 {
		errs = append(errs, fmt.Errorf("max_store is %d; want at least 1, or 0 for the default", c.MaxStore))
	}
	return host, port, errors.Join(errs...)
}

// loopback takes an address apart and refuses one that other machines can reach.
func loopback(listen string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, fmt.Errorf("listen %q is not host:port: %w", listen, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", 0, fmt.Errorf("listen %q: the host must be a loopback address such as 127.0.0.1, because the embedded server asks for no password", listen)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < -1 || port > 65535 {
		return "", 0, fmt.Errorf("listen %q: the port must be 1 to 65535, or 0 for any", listen)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// NATS is a running server.
type NATS struct {
	server *server.Server
	unlock func()
	store  int64
}

// StartNATS starts a server and waits until clients can connect and everything stored is there.
// It refuses a directory that another server is using, a port that is taken, and a store that is
// damaged, in which streams would be missing.
func StartNATS(cfg Config) (*NATS, error) {
	cfg = cfg.withDefaults()
	host, port, err := cfg.validate()
	if err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("embedded NATS: make the directory for its data: %w", err)
	}
	unlock, err := lock(filepath.Join(cfg.Dir, "nats.lock"))
	if err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	n, err := startNATS(cfg, host, port)
	if err != nil {
		unlock()
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	n.unlock = unlock
	return n, nil
}

func startNATS(cfg Config, host string, port int) (*NATS, error) {
	if err := checkPort(host, port); err != nil {
		return nil, err
	}
	store := cfg.MaxStore
	if store == 0 {
		room, err := diskRoom(cfg.Dir)
		if err != nil {
			return nil, err
		}
		store = min(defaultMaxStore, room)
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "hxp", Host: host, Port: port, NoSigs: true, MaxPayload: cfg.MaxPayload,
		JetStream: true, StoreDir: cfg.Dir, JetStreamMaxMemory: cfg.MaxMemory, JetStreamMaxStore: store,
		SyncAlways: cfg.SyncAlways,
	})
	if err != nil {
		return nil, err
	}
	log := newServerLog(cfg.Logger)
	s.SetLoggerV2(log, false, false, false)

	go func() {
		defer func() {
			if p := recover(); p != nil {
				log.fail(panicError{fmt.Errorf("the server cannot read what is stored in %s: %v", cfg.Dir, p)})
			}
		}()
		s.Start()
	}()
	err = awaitReady(s, log, cfg.StartTimeout)
	if err == nil {
		err = checkStore(s, cfg.Dir)
	}
	if err != nil {
		// A server that has panicked may hold locks for ever; it cannot be asked to stop.
		if _, panicked := errors.AsType[panicError](err); !panicked {
			stop(s)
		}
		return nil, err
	}
	return &NATS{server: s, store: store}, nil
}

// panicError is a panic of the server while it started.
type panicError struct{ error }

// awaitReady waits in short steps, so that a start that has failed is not waited for.
func awaitReady(s *server.Server, log *serverLog, timeout time.Duration) error {
	for end := time.Now().Add(timeout); ; {
		ready := s.ReadyForConnections(50 * time.Millisecond)
		select {
		case err := <-log.fatal:
			return err
		default:
		}
		switch {
		case ready:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("the server was not ready within %s", timeout)
		}
	}
}

// checkPort says in plain words that a port is taken; the server itself would say it after it had read its whole store.
func checkPort(host string, port int) error {
	if port == server.RANDOM_PORT {
		return nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("port %d of %s cannot be used; is another NATS server running? %w", port, host, err)
	}
	return l.Close()
}

// URL is where clients on this machine connect.
func (n *NATS) URL() string { return n.server.ClientURL() }

// MaxStore is how many bytes of streams on disk the server accepts.
func (n *NATS) MaxStore() int64 { return n.store }

// Connect opens a connection that does not go through the network. The caller closes it.
func (n *NATS) Connect(opts ...nats.Option) (*nats.Conn, error) {
	return nats.Connect("", append([]nats.Option{nats.InProcessServer(n.server)}, opts...)...)
}

// Close stops the server and waits until everything is stored. It may be called more than once.
func (n *NATS) Close() {
	stop(n.server)
	n.unlock()
}

func stop(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}
