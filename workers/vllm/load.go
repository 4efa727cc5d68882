package vllm

import (
	"context"

	"github.com/hxp-enterprise/hxp/workers"
)

// Load implements [workers.Engine].
func (e *Engine) Load(context.Context) (workers.Load, error) {
	return workers.Load{}, workers.ErrUnsupported
}
