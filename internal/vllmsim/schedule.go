package vllmsim

import (
	"runtime"
	"slices"
	"time"
)

// submit queues the sequences of g, or says why not.
func (s *Sim) submit(g *group) error {
	s.mu.Lock()
	defer s.unlock()
	now := time.Now()
	switch {
	case s.down:
		return errDown
	case s.stopping:
		return unavailable("The engine is shutting down.")
	}
	if err := s.arrivalFault(g); err != nil {
		return err
	}
	if n := len(s.running) + len(s.waiting); s.cfg.MaxQueued > 0 && n+len(g.sequences) > s.cfg.MaxQueued {
		return unavailable("The request queue is full. Please try again later.")
	}
	s.stats.Requests++
	if s.cfg.LogPrompts {
		for _, p := range g.req.prompts {
			s.prompts = remember(s.prompts, Detokenize(p))
		}
	}
	for _, q := range g.sequences {
		s.arrivals++
		q.arrival, q.order = now, s.arrivals
		s.enqueue(q)
	}
	if !s.hung.active(now) {
		s.admit(now) // what waits is what there is no room for, and not what the loop has yet to see
	}
	if !s.looping {
		s.looping = true
		s.wg.Add(1)
		go s.loop()
	}
	s.wake()
	return nil
}

// enqueue puts q behind all that go before it.
func (s *Sim) enqueue(q *sequence) {
	at := len(s.waiting)
	if s.cfg.Priority {
		at, _ = slices.BinarySearchFunc(s.waiting, q, func(a, b *sequence) int {
			if a.group.req.priority <= b.group.req.priority {
				return -1
			}
			return 1
		})
	}
	s.waiting = slices.Insert(s.waiting, at, q)
}

// wake makes the loop look again. It needs no lock.
func (s *Sim) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// loop is the engine: steps, each one token of every running sequence, for as long as there are
// sequences. It starts with the first and ends after the last, so an idle simulator has no goroutine.
func (s *Sim) loop() {
	defer s.wg.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var touched []*group
	for {
		s.mu.Lock()
		if len(s.running)+len(s.waiting) == 0 {
			s.looping = false
			s.unlock()
			return
		}
		now := time.Now()
		var again time.Time
		var busy bool
		touched, again, busy = s.step(now, touched[:0])
		s.unlock()
		// Handlers are woken outside the lock, or each would run into it.
		for _, g := range touched {
			g.signal()
		}
		if busy {
			runtime.Gosched()
			continue
		}
		var due <-chan time.Time
		if !again.IsZero() {
			timer.Reset(time.Until(again))
			due = timer.C
		}
		select {
		case <-s.kick:
		case <-due:
		}
	}
}

// step does what is due at now. It returns the groups that were given something, and either that
// there is more to do at once (busy) or when there will be: the zero time for not before a kick.
func (s *Sim) step(now time.Time, touched []*group) (_ []*group, again time.Time, busy bool) {
	if s.hung.active(now) {
		return touched, s.hung.until, false
	}
	sooner := func(t time.Time) {
		if !t.IsZero() && (again.IsZero() || t.Before(again)) {
			again = t
		}
	}
	full := s.admit(now)
	interval := s.scaled(s.cfg.ITL, now)
	tick := !now.Before(s.nextTick)
	if tick {
		s.nextTick = s.nextTick.Add(interval)
		if s.nextTick.Before(now) { // after a pause, or behind: do not catch up
			s.nextTick = now.Add(interval)
		}
	}
	decoding := false
	for _, q := range s.running {
		first := q.previous.IsZero()
		switch {
		case q.ended:
			continue // by a fault on another sequence of its group
		case q.group.held.active(now):
			sooner(q.group.held.until)
			continue
		case first && now.Before(q.ready):
			sooner(q.ready)
			continue
		case !first && !tick:
			decoding = true
			continue
		}
		s.emit(q, now)
		if q.group.due() {
			touched = append(touched, q.group)
		}
		decoding = decoding || !q.ended
		if s.down || s.hung.on { // a crash has swept the list under us
			break
		}
	}
	ran := len(s.running)
	s.running = slices.DeleteFunc(s.running, func(q *sequence) bool { return q.ended })
	switch {
	case len(s.running)+len(s.waiting) == 0:
		return touched, now, true // the loop ends
	case s.hung.on:
		return touched, s.hung.until, false
	case len(s.waiting) > 0 && (!full || len(s.running) < ran):
		return touched, now, true
	case decoding && interval == 0:
		return touched, now, true
	case decoding:
		sooner(s.nextTick)
	}
	return touched, again, false
}

// scaled is how long something takes under the load of this moment.
func (s *Sim) scaled(d time.Duration, now time.Time) time.Duration {
	load := float64(len(s.running)) / float64(s.cfg.MaxNumSeqs)
	f := 1 + s.cfg.LoadFactor*load
	if s.slow.active(now) {
		f *= s.factor
	}
	return time.Duration(float64(d) * f)
}

// admit moves waiting sequences into free slots, as far as the cache holds them, and reports whether
// there is room for no more: until one ends, nothing changes that.
func (s *Sim) admit(now time.Time) (full bool) {
	if len(s.waiting) == 0 {
		return false
	}
	room := s.cfg.KVTokens
	for _, q := range s.running {
		room -= q.most()
	}
	n := 0
	for ; n < len(s.waiting); n++ {
		q := s.waiting[n]
		if room -= q.most(); len(s.running) == s.cfg.MaxNumSeqs || room < 0 {
			full = true
			break
		}
		s.stats.PromptTokens += len(q.prompt)
		s.metrics.queueTime.Observe(now.Sub(q.arrival).Seconds())
		s.running = append(s.running, q)
		q.ready = now.Add(s.scaled(s.cfg.TTFT+time.Duration(len(q.prompt))*s.cfg.Prefill, now))
	}
	s.waiting = slices.Delete(s.waiting, 0, n)
	return full
}

// emit makes the next token of q, unless a fault comes before it.
func (s *Sim) emit(q *sequence, now time.Time) {
	if len(s.faults) > 0 && s.strike(q, now) {
		return
	}
	id, end := q.gen.next()
	q.group.out = append(q.group.out, emission{choice: int32(q.choice), token: int32(id), end: end})
	s.stats.GenerationTokens++
	if q.previous.IsZero() {
		s.metrics.firstToken.Observe(now.Sub(q.arrival).Seconds())
	} else {
		s.metrics.interToken.Observe(now.Sub(q.previous).Seconds())
	}
	q.previous = now
	if end != nil {
		s.stats.Finished++
		s.finish(q, end.reason, now)
	}
}

// finish takes q out of the count of its group. The caller takes it out of its queue.
func (s *Sim) finish(q *sequence, reason string, now time.Time) {
	q.ended = true
	q.group.live--
	s.metrics.success.WithLabelValues(reason).Inc()
	s.metrics.endToEnd.Observe(now.Sub(q.arrival).Seconds())
}

// fail ends every sequence of g by a fault. They leave the queues with the step.
func (s *Sim) fail(g *group, kind FaultKind, now time.Time) {
	for _, q := range g.sequences {
		if q.ended {
			continue
		}
		end := &ending{cut: -1, fault: kind}
		reason := finishAbort
		switch kind {
		case ErrorInStream:
			reason = finishError
			s.stats.Errors++
		default:
			s.countAbort(q, now)
		}
		if kind == Abort {
			end.reason, end.fault = finishAbort, ""
		}
		g.out = append(g.out, emission{choice: int32(q.choice), token: -1, end: end})
		s.finish(q, reason, now)
	}
	// Those that wait are dropped here, since a step only sweeps what runs.
	s.waiting = slices.DeleteFunc(s.waiting, func(q *sequence) bool { return q.ended })
}

func (s *Sim) countAbort(q *sequence, now time.Time) {
	s.stats.Aborted++
	s.stats.Aborts = remember(s.stats.Aborts, Aborted{ID: q.group.id, At: now, Phase: q.phase(), Tokens: q.gen.produced})
}

// abort ends what is left of g: its client has gone. The slots are free at once.
func (s *Sim) abort(g *group) {
	s.mu.Lock()
	left := g.live > 0
	if left {
		s.fail(g, EOF, time.Now())
		s.sweep()
	}
	s.unlock()
	if left {
		s.wake()
	}
}

// abortAll ends every sequence and lets the handlers say so.
func (s *Sim) abortAll(kind FaultKind, now time.Time) {
	for _, list := range [][]*sequence{slices.Clone(s.running), slices.Clone(s.waiting)} {
		for _, q := range list {
			if !q.ended {
				s.fail(q.group, kind, now)
				q.group.signal()
			}
		}
	}
	s.sweep()
}

func (s *Sim) sweep() {
	ended := func(q *sequence) bool { return q.ended }
	s.running = slices.DeleteFunc(s.running, ended)
	s.waiting = slices.DeleteFunc(s.waiting, ended)
}

// crash ends the engine. The process, if it is to end, ends when the lock is given back.
func (s *Sim) crash() {
	if s.down {
		return
	}
	s.down = true
	s.exit = s.cfg.Exit
	s.abortAll(EOF, time.Now())
	close(s.crashed)
}

// unlock gives the lock back and then carries out a crash.
func (s *Sim) unlock() {
	exit := s.exit
	s.exit = nil
	s.mu.Unlock()
	if exit != nil {
		exit(1)
	}
}

// drain moves what g was given since the last call into buf, and says whether that is the end of it.
func (s *Sim) drain(g *group, buf []emission) (_ []emission, done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := g.out
	g.out = buf[:0]
	return out, g.live == 0
}
