package vllm

import (
	"context"
	"fmt"
	"net/http"

	"github.com/hxp-enterprise/hxp/workers"
)

// maxMetrics bounds the answer to GET /metrics. vLLM's is about 100 KiB for each data-parallel rank.
const maxMetrics = 4 << 20

// Load implements [workers.Engine]. It asks /metrics within [Config.HealthTimeout] and reads vLLM's
// gauges and counters under their names of every version. What several data-parallel ranks report
// is summed, of cache usage the highest counts and of cache sizes the smallest, since a request has
// to fit into one of them. Where the engine serves several models, only this one's series count.
//
// [workers.ErrUnsupported] says that there is no /metrics, or nothing of vLLM's in it.
func (e *Engine) Load(ctx context.Context) (workers.Load, error) {
	ctx, cancel := e.within(ctx, e.cfg.HealthTimeout, "a report of its load")
	defer cancel()
	c := call{method: http.MethodGet, path: "/metrics", accept: "text/plain"}
	resp, err := e.send(ctx, e.control, c)
	if err != nil {
		return workers.Load{}, orStopped(ctx, e.noAnswer(c, err))
	}
	defer discard(resp.Body)
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusNotImplemented:
		_ = e.errorBody(resp.Body) // read for the sake of the connection
		return workers.Load{}, fmt.Errorf("%w: there is no /metrics", workers.ErrUnsupported)
	default:
		return workers.Load{}, orStopped(ctx, e.refusal(c, resp))
	}
	all, err := readMetrics(resp.Body, maxMetrics)
	if err != nil {
		return workers.Load{}, orStopped(ctx, e.noAnswer(c, err))
	}
	model := e.cfg.Model
	if id := e.known.Load(); id != nil {
		model = id.Model
	}
	load, ok := all.of(model)
	if !ok {
		return workers.Load{}, fmt.Errorf("%w: /metrics holds no series of vLLM", workers.ErrUnsupported)
	}
	return load, nil
}
