//go:build chaos && linux

package chaos_test

import (
	"bytes"
	"fmt"
	"net"
	"sync"
	"testing"
)

// proxy stands between a process and a server, and can cut the talk between two words: what a process
// has said until then arrives, and the answer does not.
type proxy struct {
	t      *testing.T
	target string
	l      net.Listener
	conns  sync.WaitGroup

	mu   sync.Mutex
	trap *trap
	open map[net.Conn]bool
}

// trap is a place in the talk.
type trap struct {
	// words are what the process says there.
	words []byte
	// end ends what is said; what comes after it is held back. Without one everything that is said goes
	// through, and only the answers are held back.
	end []byte
	// sprung is closed when the words have gone through.
	sprung chan struct{}
	armed  bool
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, target: target, l: l, open: map[net.Conn]bool{}}
	p.conns.Go(p.serve)
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		for c := range p.open {
			c.Close()
		}
		p.mu.Unlock()
		p.conns.Wait()
	})
	return p
}

func (p *proxy) address() string { return p.l.Addr().String() }

func (p *proxy) url(scheme string) string { return fmt.Sprintf("%s://%s", scheme, p.address()) }

// set sets a trap: once the process has said words, and what follows up to end, it hears nothing more and
// what it says goes nowhere, until lift.
func (p *proxy) set(words, end string) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trap = &trap{words: []byte(words), end: []byte(end), sprung: make(chan struct{}), armed: true}
	return p.trap.sprung
}

// lift lets everything through again.
func (p *proxy) lift() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trap = nil
}

func (p *proxy) serve() {
	for {
		down, err := p.l.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", p.target)
		if err != nil {
			down.Close()
			continue
		}
		p.mu.Lock()
		p.open[down], p.open[up] = true, true
		p.mu.Unlock()
		p.conns.Go(func() { p.pass(down, up, true) })
		p.conns.Go(func() { p.pass(up, down, false) })
	}
}

// pass copies one direction. said is what comes from the process.
func (p *proxy) pass(from, to net.Conn, said bool) {
	defer func() {
		from.Close()
		to.Close()
		p.mu.Lock()
		delete(p.open, from)
		delete(p.open, to)
		p.mu.Unlock()
	}()
	buf := make([]byte, 64<<10)
	var tail []byte // of what was said before, in case the words are cut in two
	for {
		n, err := from.Read(buf)
		if n > 0 {
			data := p.through(buf[:n], &tail, said)
			if _, err := to.Write(data); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// through returns what of data goes through.
func (p *proxy) through(data []byte, tail *[]byte, said bool) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	trap := p.trap
	switch {
	case trap == nil:
		return data
	case !trap.armed && said && len(trap.end) == 0:
		return data
	case !trap.armed:
		return nil
	case !said:
		return data
	}
	whole := append(*tail, data...)
	at := bytes.Index(whole, trap.words)
	if at < 0 {
		*tail = bytes.Clone(whole[max(0, len(whole)-len(trap.words)-4096):])
		return data
	}
	rest := whole[at+len(trap.words):]
	end := bytes.Index(rest, trap.end)
	if end < 0 { // the rest is still to come
		*tail = bytes.Clone(whole[at:])
		return data
	}
	trap.armed = false
	close(trap.sprung)
	if len(trap.end) == 0 {
		return data
	}
	kept := at + len(trap.words) + end + len(trap.end) - len(*tail)
	*tail = nil
	return data[:max(0, min(kept, len(data)))]
}
