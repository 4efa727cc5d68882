package embedded

import (
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// startMini starts the in-process stand-in. It has no clock of its own, so keys expire because a
// goroutine tells it that time passes.
func startMini(cfg RedisConfig, warning string) (*Redis, error) {
	m := miniredis.NewMiniRedis()
	if err := m.StartAddr(net.JoinHostPort(redisHost, strconv.Itoa(cfg.Port))); err != nil {
		return nil, fmt.Errorf("port %d of %s cannot be used; is another Redis running? %w", cfg.Port, redisHost, err)
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		const step = 100 * time.Millisecond
		tick := time.NewTicker(step)
		defer tick.Stop()
		last := time.Now()
		for {
			select {
			case <-quit:
				m.Close()
				return
			case now := <-tick.C:
				m.FastForward(now.Sub(last))
				last = now
			}
		}
	}()
	return &Redis{Warning: warning, addr: m.Addr(), done: done, stop: sync.OnceValue(func() error {
		close(quit)
		<-done
		return nil
	})}, nil
}
