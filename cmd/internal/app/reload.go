package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hxp-enterprise/hxp/workers"
)

// Outcomes of a reload.
const (
	reloadApplied   = "applied"
	reloadUnchanged = "unchanged"
	// reloadRestart has applied what it could; the rest needs a restart.
	reloadRestart = "restart_needed"
	// reloadRejected has changed nothing.
	reloadRejected = "rejected"
)

// reloader takes changes of the configuration into running workers. What cannot change while they
// run stays as it is, and is named. A configuration with a fault changes nothing.
type reloader struct {
	cfg   atomic.Pointer[Config] // in force
	crew  *crew
	house *house
	level *logLevel
	keys  map[string]string // the API keys in use, by model
	// all is set if the process serves every model that is configured, so that one more would be its own.
	all bool
	p   printer

	state   atomic.Pointer[workers.Check] // of /readyz
	total   *prometheus.CounterVec
	success prometheus.Gauge
	at      prometheus.Gauge
}

func newReloader(cfg *Config, c *crew, h *house, level *logLevel, all bool, p printer, reg *prometheus.Registry) *reloader {
	r := &reloader{
		crew: c, house: h, level: level, all: all, p: p, keys: map[string]string{},
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hxp_config_reloads_total", Help: "Times the configuration was read again, by what came of it.",
		}, []string{"outcome"}),
		success: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hxp_config_last_reload_success", Help: "1 unless the configuration, when it was last read, had faults and changed nothing.",
		}),
		at: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hxp_config_last_reload_timestamp_seconds", Help: "When a configuration was last taken over, at the start for one, in seconds since the Unix epoch.",
		}),
	}
	own := *cfg
	for _, m := range c.models {
		r.keys[m] = cfg.Models[m].APIKey
	}
	r.cfg.Store(&own)
	reg.MustRegister(r.total, r.success, r.at)
	for _, o := range []string{reloadApplied, reloadUnchanged, reloadRestart, reloadRejected} {
		r.total.WithLabelValues(o)
	}
	r.success.Set(1)
	r.at.SetToCurrentTime()
	r.state.Store(&workers.Check{OK: true})
	return r
}

// check is the reloader's line of /readyz. It does not make a worker unready: the configuration in
// force is a good one.
func (r *reloader) check() workers.Check { return *r.state.Load() }

// start watches the files until the returned stop is called. hangup asks for a reload as well.
func (r *reloader) start(ctx context.Context, hangup <-chan os.Signal) (stop func() error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w, err := watchFiles(r.cfg.Load().files)
	if err != nil {
		r.p.notes("warning", []string{fmt.Sprintf("configuration files are not watched: %v: SIGHUP has them read again", err)})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.run(ctx, w, hangup)
	}()
	return func() error {
		cancel()
		<-done
		r.cfg.Load().release()
		return w.close()
	}
}

func (r *reloader) run(ctx context.Context, w *watcher, hangup <-chan os.Signal) {
	events, faults := w.events()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			w.settled()
		case e := <-events:
			w.stir(e.Name)
			continue
		case err := <-faults:
			r.p.notes("warning", []string{fmt.Sprintf("a change of the configuration files may have been missed: %v", err)})
			w.stir("")
			continue
		case <-w.quiet():
			if !w.settled() {
				continue
			}
		}
		r.reload()
		w.follow()
	}
}

// reload reads the configuration again and takes over what can be.
func (r *reloader) reload() {
	next, err := Load(r.cfg.Load().options)
	if err == nil {
		err = r.take(next)
	}
	if err != nil {
		r.total.WithLabelValues(reloadRejected).Inc()
		r.success.Set(0)
		r.state.Store(&workers.Check{Detail: "the configuration was not reloaded, and the one before it stays in force: " + err.Error()})
		r.p.printf("configuration: not reloaded, the one before it stays in force: %v\n", err)
	}
}

// take applies what of next can change now.
func (r *reloader) take(next *Config) error {
	now := r.cfg.Load()
	var paths, applied, restart []string
	for _, ch := range now.changes(next) {
		switch name := ch.from; {
		case !r.concerns(ch.path) || within(ch.path, inheritedOnly):
		case r.can(ch.path) && !ch.derived:
			paths = append(paths, ch.path)
			if !slices.Contains(applied, name) {
				applied = append(applied, name)
			}
		case !slices.Contains(restart, name):
			restart = append(restart, name)
		}
	}
	effective := now.overlay(next, func(path string) bool {
		return slices.ContainsFunc(paths, func(p string) bool { return p == path || strings.HasPrefix(p, path+".") })
	})
	if err := effective.prepare(); err != nil { // its files may have changed as well
		return err
	}
	if err := r.apply(effective); err != nil {
		effective.release()
		return errors.Join(err, r.apply(now))
	}
	now.release()
	if effective.moderated != now.moderated {
		applied = append(applied, "the files of moderation.policies")
	}
	effective.settings, effective.options, effective.files = next.settings, next.options, next.files
	r.cfg.Store(effective)

	state := workers.Check{OK: true}
	outcome, words := reloadApplied, []string{}
	if len(applied) > 0 {
		words = append(words, "reloaded: "+strings.Join(applied, ", "))
	}
	switch {
	case len(restart) > 0:
		outcome, state.Detail = reloadRestart, "takes effect after a restart: "+strings.Join(restart, ", ")
		words = append(words, state.Detail)
	case len(applied) == 0:
		outcome, words = reloadUnchanged, []string{"reloaded, nothing that concerns this process has changed"}
	}
	r.total.WithLabelValues(outcome).Inc()
	r.success.Set(1)
	r.at.Set(float64(time.Now().UnixMilli()) / 1000)
	r.state.Store(&state)
	r.p.notes("configuration", words)
	return nil
}

// concerns reports whether a setting has to do with what this process runs.
func (r *reloader) concerns(path string) bool {
	m := modelOf(path)
	_, known := r.cfg.Load().Models[m]
	return m == "" || slices.Contains(r.crew.models, m) || r.all && !known
}

// can reports whether a setting of this process can change while it runs.
func (r *reloader) can(path string) bool {
	if !within(path, reloadableOfRemote) {
		return within(path, reloadable)
	}
	return !r.house.runs(modelOf(path))
}

// apply gives every part its values of cfg.
func (r *reloader) apply(cfg *Config) error {
	for i, m := range r.crew.models {
		if err := r.crew.workers[i].Tune(cfg.tunables(m)); err != nil {
			return err
		}
		e, ok := r.crew.engines[i].(*remote)
		if ok && cfg.Models[m].APIKey != r.keys[m] {
			if err := e.use(cfg.engineConfig(m)); err != nil {
				return fmt.Errorf("engine of %s: %w", m, err)
			}
			r.keys[m] = cfg.Models[m].APIKey
		}
	}
	r.level.set(cfg.Log.Level)
	return nil
}
