package vllm

import (
	"context"

	"github.com/google/uuid"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

const (
	canaryID   = "hxp-canary"
	canaryBody = `{"prompt":"Hi","max_tokens":1,"temperature":0}`
)

// Canary generates one token within [Config.CanaryTimeout]. It finds an engine that hangs, which
// /health does not: that answers 200 as long as vLLM's API server runs, whatever its engine does.
// The token waits its turn like any other, so a canary is for an engine that makes no progress
// otherwise.
func (e *Engine) Canary(ctx context.Context) error {
	ctx, cancel := e.within(ctx, e.cfg.CanaryTimeout, "a completion of one token")
	defer cancel()
	for _, err := range e.Generate(ctx, &workers.Request{
		ID: canaryID + "-" + uuid.NewString()[:8], Attempt: 1, Endpoint: schemas.Completions, Body: []byte(canaryBody), Class: schemas.Interactive,
	}) {
		if err != nil {
			return err
		}
	}
	return nil
}
