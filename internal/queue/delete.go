package queue

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// DeleteJob takes a job out of its model's queue by the sequence number under which it was stored. Only
// a job that has its Result may be deleted: nothing else would tell its producer of the end.
func DeleteJob(ctx context.Context, js jetstream.JetStream, model string, stored uint64) error {
	if err := checkTokens(map[string]string{"model": model}); err != nil {
		return fmt.Errorf("delete job: %w", err)
	}
	// Without no_erase the server overwrites the message with random bytes first.
	request := map[string]any{"seq": stored, "no_erase": true}
	if err := api(ctx, js, "STREAM.MSG.DELETE."+schemas.JobsStream(model), request, nil); err != nil {
		return fmt.Errorf("delete job %d of model %s: %w", stored, model, err)
	}
	return nil
}
