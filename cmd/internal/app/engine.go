package app

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

// runner is an engine that this process runs: Run serves until ctx ends.
type runner interface {
	Run(ctx context.Context) error
}

// process is what an engine is given by the process around it.
type process struct {
	log    zerolog.Logger
	reg    *prometheus.Registry
	stderr io.Writer
}

// newEngine returns the engine of a model and, if it is one that this process runs, what runs it.
// where is its URL or [EngineVLLM].
func (c *Config) newEngine(model, where string, p process) (workers.Engine, runner, error) {
	if where == EngineVLLM {
		return c.newServer(model, p)
	}
	e := &remote{url: where}
	if err := e.use(c.engineConfig(model)); err != nil {
		return nil, nil, fmt.Errorf("engine of %s: %w", model, err)
	}
	return e, nil, nil
}

// engineConfig is how the engine of a model is spoken to.
func (c *Config) engineConfig(model string) vllm.Config {
	m := c.Models[model]
	return vllm.Config{Model: m.ServedName, APIKey: m.APIKey, Priority: m.Priority}
}

// engineAddress is where the engine of a model listens if it is on this machine.
func (c *Config) engineAddress(model string) string {
	return net.JoinHostPort(c.Network.Internal.Localhost, strconv.Itoa(c.Models[model].Port))
}

// engineOf says what the engine of a model is: a URL, [EngineVLLM] or [EngineSim]. asked goes over
// the configuration, and unasked is for a model that has neither.
func (c *Config) engineOf(model, asked, unasked string) (string, error) {
	where := cmp.Or(asked, c.Models[model].Engine, unasked)
	if where == EngineVLLM && c.Models[model].ModelPath == "" {
		return "", fmt.Errorf("%w: ai_model_services.%s.model_path is empty; want the model that vllm serve is to load", ErrUsage, model)
	}
	return where, nil
}

// remote is an engine elsewhere. Its key may change while it is in use.
type remote struct {
	url string
	now atomic.Pointer[vllm.Engine]
}

// use speaks to the engine by another configuration from the next request on.
func (r *remote) use(cfg vllm.Config) error {
	e, err := vllm.New(r.url, cfg)
	if err != nil {
		return err
	}
	if before := r.now.Swap(e); before != nil {
		return before.Close() // what it generates goes on
	}
	return nil
}

func (r *remote) Generate(ctx context.Context, req *workers.Request) iter.Seq2[workers.Delta, error] {
	return r.now.Load().Generate(ctx, req)
}

func (r *remote) CountTokens(ctx context.Context, endpoint schemas.Endpoint, body []byte) (int, error) {
	return r.now.Load().CountTokens(ctx, endpoint, body)
}

func (r *remote) Tokenize(ctx context.Context, endpoint schemas.Endpoint, body []byte) ([]int, error) {
	return r.now.Load().Tokenize(ctx, endpoint, body)
}

func (r *remote) Detokenize(ctx context.Context, ids []int) (string, error) {
	return r.now.Load().Detokenize(ctx, ids)
}

func (r *remote) Health(ctx context.Context) (workers.Health, error) { return r.now.Load().Health(ctx) }
func (r *remote) Load(ctx context.Context) (workers.Load, error)     { return r.now.Load().Load(ctx) }
func (r *remote) Canary(ctx context.Context) error                   { return r.now.Load().Canary(ctx) }
func (r *remote) String() string                                     { return r.now.Load().String() }
func (r *remote) Close() error                                       { return r.now.Load().Close() }

// house runs the engines that are the process's own. They start before the workers and stop after them.
type house struct {
	life    context.Context // ends with stop, not with whoever started it
	cancel  context.CancelFunc
	running sync.WaitGroup
	models  []string // whose engines they are
	fail    func(error)
}

func newHouse(ctx context.Context, fail func(error)) *house {
	h := &house{fail: fail}
	h.life, h.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return h
}

// run has the engine of a model serve. That it ends by itself ends the process.
func (h *house) run(model, kind string, r runner) {
	h.models = append(h.models, model)
	h.running.Go(func() {
		if err := r.Run(h.life); err != nil {
			h.fail(fmt.Errorf("%s of %s: %w", kind, model, err))
		}
	})
}

// runs reports whether the engine of a model is the process's own.
func (h *house) runs(model string) bool { return slices.Contains(h.models, model) }

func (h *house) stop() error {
	h.cancel()
	h.running.Wait()
	return nil
}
