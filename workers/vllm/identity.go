package vllm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// simSuffix ends the version of hxp's own simulator.
const simSuffix = "+sim"

// What an engine may lack, and what is lost by that.
const (
	missingHealth   = "no /health: the engine counts as alive when it lists its models"
	missingVersion  = "no /version: the engine is taken for a server that is not vLLM"
	missingTokenIDs = "no token ids: tokens are counted as chunks and an interrupted stream restarts instead of continuing"
	missingTokenize = "no /tokenize: a prompt that is too long is refused by the engine and not before"
	missingPriority = "no priority scheduling: in the engine's own queue an urgent request waits behind batch ones; vLLM has it with --scheduling-policy priority"
	missingContext  = "no max_model_len: the context window is not known"
)

// identity is what the engine has said about itself. It is not changed once it is stored.
type identity struct {
	workers.Health
	vllm, tokenIDs bool
}

// Health implements [workers.Engine]. It asks /health, /v1/models and /version, one after the
// other, within [Config.HealthTimeout]. An engine that hangs may still pass; see [Engine.Canary].
func (e *Engine) Health(ctx context.Context) (workers.Health, error) {
	ctx, cancel := e.within(ctx, e.cfg.HealthTimeout, "a health check")
	defer cancel()
	alive, err := e.alive(ctx)
	if err != nil {
		e.noPriority.Store(false) // it may come back with another scheduling policy
		return workers.Health{}, orStopped(ctx, err)
	}
	id, err := e.ask(ctx)
	if err != nil {
		return workers.Health{}, orStopped(ctx, err)
	}
	if old := e.known.Swap(id); old != nil && (old.Version != id.Version || old.Model != id.Model || old.MaxModelLen != id.MaxModelLen) {
		e.noTokenize.Store(false) // another engine listens here than before
		e.noTokenIDs.Store(false)
		e.noPriority.Store(false)
	}
	h := id.Health
	h.Missing = slices.Clone(h.Missing)
	h.TokenIDs = id.tokenIDs && !e.noTokenIDs.Load()
	if !alive {
		h.Missing = append(h.Missing, missingHealth)
	}
	if id.tokenIDs && e.noTokenIDs.Load() {
		h.Missing = append(h.Missing, missingTokenIDs)
	}
	if id.vllm && e.noTokenize.Load() {
		h.Missing = append(h.Missing, missingTokenize)
	}
	if e.cfg.Priority && (!id.vllm || e.noPriority.Load()) {
		h.Missing = append(h.Missing, missingPriority)
	}
	return h, nil
}

// identify returns what is known of the engine, and asks it the first time.
func (e *Engine) identify(ctx context.Context) (*identity, error) {
	if id := e.known.Load(); id != nil {
		return id, nil
	}
	ctx, cancel := e.within(ctx, e.cfg.HealthTimeout, "telling what it is")
	defer cancel()
	select {
	case e.learning <- struct{}{}:
		defer func() { <-e.learning }()
	case <-ctx.Done():
		return nil, orStopped(ctx, nil)
	}
	if id := e.known.Load(); id != nil {
		return id, nil
	}
	id, err := e.ask(ctx)
	if err != nil {
		return nil, orStopped(ctx, err)
	}
	e.known.Store(id)
	return id, nil
}

// alive asks /health. It returns false if the engine has none.
func (e *Engine) alive(ctx context.Context) (bool, error) {
	c := call{method: http.MethodGet, path: "/health"}
	resp, err := e.send(ctx, e.control, c)
	if err != nil {
		return false, e.noAnswer(c, err)
	}
	defer discard(resp.Body)
	switch {
	case resp.StatusCode/100 == 2:
		_ = e.errorBody(resp.Body) // read for the sake of the connection
		return true, nil
	case resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented:
		return false, e.refusal(c, resp)
	}
	_ = e.errorBody(resp.Body)
	return false, nil
}

// ask finds out who the engine is.
func (e *Engine) ask(ctx context.Context) (*identity, error) {
	id := &identity{}
	if err := e.askModel(ctx, id); err != nil {
		return nil, err
	}
	if err := e.askVersion(ctx, id); err != nil {
		return nil, err
	}
	if id.MaxModelLen == 0 {
		id.Missing = append(id.Missing, missingContext)
	}
	return id, nil
}

func (e *Engine) askModel(ctx context.Context, id *identity) error {
	c := call{method: http.MethodGet, path: "/v1/models"}
	var list struct {
		Data []struct {
			ID          string `json:"id"`
			MaxModelLen int    `json:"max_model_len"`
		} `json:"data"`
	}
	if _, err := e.getJSON(ctx, c, &list); err != nil {
		return err
	}
	var names []string
	for _, m := range list.Data {
		if m.ID != "" && (e.cfg.Model == "" || e.cfg.Model == m.ID) {
			id.Model, id.MaxModelLen = m.ID, max(0, m.MaxModelLen)
			return nil
		}
		if len(names) < 10 {
			names = append(names, fmt.Sprintf("%.80q", m.ID))
		}
	}
	if e.cfg.Model == "" {
		return schemas.Errorf(schemas.CodeEngineUnavailable, "the engine serves no model: GET /v1/models lists none")
	}
	return schemas.Errorf(schemas.CodeEngineUnavailable, "the engine does not serve model %q; of its %d models the first are: %s",
		e.cfg.Model, len(list.Data), strings.Join(names, ", "))
}

// askVersion decides whether the engine is vLLM, and what it can do.
func (e *Engine) askVersion(ctx context.Context, id *identity) error {
	var v struct {
		Version string `json:"version"`
	}
	status, err := e.getJSON(ctx, call{method: http.MethodGet, path: "/version"}, &v)
	switch {
	case err == nil && v.Version != "":
		id.vllm = true
		id.Version = e.redact(v.Version)
		id.Simulated = strings.HasSuffix(v.Version, simSuffix)
		id.tokenIDs = returnsTokenIDs(v.Version)
		if !id.tokenIDs {
			id.Missing = append(id.Missing, missingTokenIDs)
		}
		return nil
	case status != 0 && (status < 500 || status == http.StatusNotImplemented):
		id.Missing = append(id.Missing, missingVersion, missingTokenIDs, missingTokenize)
		return nil
	}
	return err
}

// returnsTokenIDs reports whether vLLM of that version knows return_token_ids, which came with
// 0.10. Builds from source, which call themselves 0.1.dev or so, are taken for new ones: an old
// vLLM ignores the field.
func returnsTokenIDs(version string) bool {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 {
		return true
	}
	major, err := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	if err != nil || err2 != nil || minor < 2 && strings.Contains(version, "dev") {
		return true
	}
	return major > 0 || minor >= 10
}

// getJSON makes a call and decodes its answer. The status is 0 if no answer came, or not all of it.
func (e *Engine) getJSON(ctx context.Context, c call, v any) (status int, err error) {
	resp, err := e.send(ctx, e.control, c)
	if err != nil {
		return 0, e.noAnswer(c, err)
	}
	defer discard(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, e.refusal(c, resp)
	}
	body, err := readAll(resp.Body, defaultMaxEvent)
	if err != nil {
		return 0, e.noAnswer(c, err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return resp.StatusCode, e.noAnswer(c, err)
	}
	return resp.StatusCode, nil
}

// within gives a call to the engine its own deadline. Passing it is the engine's fault, not the job's.
func (e *Engine) within(ctx context.Context, d time.Duration, what string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, schemas.Errorf(schemas.CodeEngineUnavailable,
		"the engine did not finish %s within %s", what, d))
}
