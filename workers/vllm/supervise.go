package vllm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Why a process ended; the values of the label reason.
const (
	reasonExited  = "exited"        // by itself, after it was ready
	reasonStart   = "start_failed"  // by itself before it was ready, or it could not be started
	reasonTimeout = "start_timeout" // not ready in time
	reasonHung    = "hung"
	reasonMemory  = "memory"
	reasonAsked   = "asked"
	reasonPort    = "port_taken" // by somebody else; nothing was started
)

func reasons() []string {
	return []string{reasonExited, reasonStart, reasonTimeout, reasonHung, reasonMemory, reasonAsked, reasonPort}
}

// verdict is why a process has to end, or has.
type verdict struct{ reason, words string }

func (v *verdict) Error() string { return v.reason + ": " + v.words }

// errRefused is a process that says that it can never work.
var errRefused = errors.New("vLLM refuses its arguments")

// Run starts the process, watches it, and starts it again however it ends. It returns nil when ctx
// has ended and all processes of the engine are gone. It returns an error when the engine can never
// work, such as one without a program or with flags that vLLM refuses, and when a process cannot be
// killed. It can be called once.
func (s *Server) Run(ctx context.Context) error {
	if s.ran.Swap(true) {
		return errors.New("this Server has run already; make another")
	}
	err := s.run(ctx)
	s.show("")
	s.set(func(st *Status) {
		st.State, st.PID = StateStopped, 0
		if err != nil {
			st.State, st.LastExit = StateFailed, err.Error()
		}
	})
	if err != nil {
		return fmt.Errorf("engine %s: %w", s, err)
	}
	return nil
}

func (s *Server) run(ctx context.Context) error {
	env := s.environment()
	program, err := findProgram(s.srv.Command[0], env, s.srv.Dir)
	if err != nil {
		return err
	}
	if !readsProc && s.srv.MemoryLimit > 0 {
		s.note("MemoryLimit has no effect on this system: the memory of processes cannot be read")
	}
	watching, stop := context.WithCancel(ctx)
	var gpus sync.WaitGroup
	defer gpus.Wait()
	defer stop()
	gpus.Go(func() { s.watchGPUs(watching, env) })

	command := slices.Concat([]string{program}, s.srv.Command[1:])
	s.show("asking vLLM for its version and its flags")
	known, words := s.probe(ctx, command, env)
	argv, leftOut := s.args.argv(known)
	if ctx.Err() != nil {
		return nil
	}
	s.set(func(st *Status) { st.Version = known.version })
	for _, w := range slices.Concat(words, leftOut) {
		s.note(w)
	}
	return s.supervise(ctx, slices.Concat(command, argv), env)
}

// supervise runs one process after the other.
func (s *Server) supervise(ctx context.Context, argv, env []string) error {
	streak := 0
	for {
		v, err := s.live(ctx, argv, env)
		s.metrics.memory.Set(0)
		if v == nil || ctx.Err() != nil {
			return err
		}
		if s.takeReadyFor() >= s.srv.MaxRestartDelay {
			streak = 0
		}
		delay := s.delay(streak)
		streak++
		s.metrics.restarts[v.reason].Inc()
		s.set(func(st *Status) { st.Restarts++; st.Streak, st.LastExit = streak, v.Error() })
		s.show(fmt.Sprintf("the next start is in %s", delay.Round(time.Millisecond)))
		s.log.Error().Str("reason", v.reason).Int("streak", streak).Stringer("delay", delay).Str("last_exit", v.words).Msg("the engine is started again")
		if wait(delay, ctx.Done()) {
			return nil
		}
	}
}

// takeReadyFor returns for how long the last process was ready, which counts once.
func (s *Server) takeReadyFor() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.readyFor
	s.readyFor = 0
	return d
}

// delay is the wait after so many ends in a row: doubled for each, and up to half of it taken off at
// random, so that engines that died of one cause do not come back as one.
func (s *Server) delay(streak int) time.Duration {
	d := s.srv.RestartDelay
	for ; streak > 0 && d < s.srv.MaxRestartDelay; streak-- {
		d *= 2
	}
	d = min(d, s.srv.MaxRestartDelay)
	return d - rand.N(d/2+1)
}

// live runs one process from start to end. It returns why that ended, or no verdict after a clean
// stop; an error is final.
func (s *Server) live(ctx context.Context, argv, env []string) (*verdict, error) {
	if err := s.portFree(ctx); err != nil {
		return &verdict{reasonPort, err.Error()}, nil
	}
	group := s.confine()
	p, err := s.start(argv, env, group)
	if err != nil {
		group.close()
		if fatal(err) {
			return nil, err
		}
		return &verdict{reasonStart, err.Error()}, nil
	}
	v := s.attend(ctx, p)
	grace := s.srv.StopTimeout
	if ctx.Err() == nil {
		grace = min(grace, restartGrace)
	}
	kills := group.oomKills()
	left := p.end(ctx, grace, s.srv.StopTimeout, func(words string) {
		s.show(words)
		s.log.Error().Str("left", words).Msg("the engine's processes do not end")
	})
	words := p.log.words() // all of them have been read by now
	s.show("")
	s.set(func(st *Status) { st.PID, st.MemoryBytes = 0, 0 })
	if logErr := p.log.err(); logErr != nil {
		s.log.Warn().Err(logErr).Msg("the engine's log could not be written any more")
	}
	switch {
	case left != nil || v == nil || ctx.Err() != nil:
		return nil, left
	case group.limitsMemory() && kills > group.kills:
		v = &verdict{reasonMemory, fmt.Sprintf("the kernel ended it at its memory limit of %d bytes", s.srv.MemoryLimit)}
	case v.reason == reasonStart && p.cmd.ProcessState.ExitCode() == 2 && !s.wasReady():
		return nil, fmt.Errorf("%w: %s; its last words: %s", errRefused, v.words, words)
	}
	if words != "" {
		v = &verdict{v.reason, v.words + "; its last words: " + words}
	}
	return v, nil
}

// fatal reports whether a program can never be started.
func fatal(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.ENOEXEC) || errors.Is(err, syscall.E2BIG)
}

// portFree returns an error if somebody listens where the engine will: that one would be taken for it.
func (s *Server) portFree(ctx context.Context) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", s.args.address())
	if err != nil {
		return fmt.Errorf("the engine cannot listen on %s: %w", s.args.address(), err)
	}
	return l.Close()
}

// confine makes the engine's cgroup if there is one to make, or returns nil.
func (s *Server) confine() *cgroup {
	if s.srv.Cgroup == "" && s.srv.MemoryLimit == 0 && s.srv.CPUs == 0 {
		return nil
	}
	folder := s.srv.Cgroup
	if folder == "" {
		own, err := ownCgroup("/proc/self")
		if err != nil {
			s.note("the kernel enforces no limits: " + err.Error())
			return nil
		}
		folder = own
	}
	c, words, err := newCgroup(folder, fmt.Sprintf("hxp-engine-%d", s.args.Port), s.srv.MemoryLimit, s.srv.CPUs)
	if err != nil {
		s.note("the kernel enforces no limits: " + err.Error())
		return nil
	}
	for _, w := range words {
		s.note(w)
	}
	if s.srv.Cgroup == "" && !c.memory && !c.cpus {
		c.close()
		return nil
	}
	// What a killed hxp has left here would hold the GPU.
	for until := time.Now().Add(linger); len(c.members()) > 0 && time.Now().Before(until); {
		c.kill()
		wait(lookAgain, nil)
	}
	return c
}

// start launches the process, in its cgroup if there is one: born in it, or else moved there.
func (s *Server) start(argv, env []string, group *cgroup) (*process, error) {
	sockets, env := scratch(env)
	command := func() *exec.Cmd {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir, cmd.Env = s.srv.Dir, env
		return cmd
	}
	secrets := slices.Concat(s.args.secrets(), secretsOf(env))
	log := newEngineLog(s.srv.Stderr, secrets)
	p, guardErr, err := launch(command(), group, log)
	if err != nil && group != nil && !fatal(err) {
		s.note(fmt.Sprintf("the engine cannot be born in cgroup %s: %v", group.path, err))
		if p, guardErr, err = launch(command(), nil, log); err == nil {
			if joinErr := group.join(p.cmd.Process.Pid); joinErr != nil {
				s.note(fmt.Sprintf("the kernel enforces no limits: %v", joinErr))
				group.memory, group.cpus = false, false
			}
			p.cgroup = group
		}
	}
	if err != nil {
		_ = os.RemoveAll(sockets) // "" is nothing
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	p.sockets = sockets
	if guardErr != nil {
		s.note(fmt.Sprintf("there is no guard, so a killed hxp may leave processes of the engine behind: %v", guardErr))
	}
	s.mu.Lock()
	s.status.PID, s.source = p.cmd.Process.Pid, log
	s.mu.Unlock()
	s.log.Info().Int("pid", p.cmd.Process.Pid).Str("command", redacted(strings.Join(argv, " "), secrets)).Msg("the engine is started")
	return p, nil
}

// attend watches the process until something is to be done about it, and returns what. It returns
// nil when ctx has ended.
func (s *Server) attend(ctx context.Context, p *process) *verdict {
	var watchers sync.WaitGroup
	defer watchers.Wait()
	look, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	watchers.Go(func() { s.watchUsage(look, p, stop) })
	watchers.Go(func() {
		select {
		case <-p.done:
			reason := reasonStart
			if s.isReady() {
				reason = reasonExited
			}
			stop(&verdict{reason, p.how()})
		case <-look.Done():
		}
	})
	if err := s.untilReady(look, p); err != nil {
		v, _ := errors.AsType[*verdict](err)
		return v
	}
	s.becomeReady(p)
	watchers.Go(func() {
		select {
		case reason := <-s.asked:
			stop(&verdict{reasonAsked, reason})
		case <-look.Done():
		}
	})
	s.watchProgress(look, stop)
	if ctx.Err() == nil {
		s.leaveReady()
	}
	v, _ := errors.AsType[*verdict](context.Cause(look))
	return v
}
