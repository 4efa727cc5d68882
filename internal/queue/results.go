package queue

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Results calls found with the Result of each of some jobs that has one. It costs one request for every
// 512 of them, and one more for each MiB of Results. Their names must be tokens.
func Results(ctx context.Context, js jetstream.JetStream, jobs []JobKey, found func(JobKey, *schemas.Result)) error {
	for len(jobs) > 0 {
		n := min(len(jobs), batchMsgs)
		keys, subjects := make(map[string]JobKey, n), make([]string, 0, n)
		for _, k := range jobs[:n] {
			if err := checkJob(k.Tenant, k.ID); err != nil {
				return fmt.Errorf("get results: %w", err)
			}
			subject := schemas.ResultSubject(k.Tenant, k.ID)
			keys[subject] = k
			subjects = append(subjects, subject)
		}
		jobs = jobs[n:]
		var bad error
		err := directLast(ctx, js, schemas.ResultsStream, subjects, func(m *stored) {
			r := new(schemas.Result)
			if err := json.Unmarshal(m.data, r); err != nil {
				if bad == nil {
					bad = fmt.Errorf("get results: message %d of %s: %w", m.seq, schemas.ResultsStream, err)
				}
				return
			}
			found(keys[m.subject], r)
		})
		if err != nil {
			return fmt.Errorf("get results: %w", err)
		}
		if bad != nil {
			return bad
		}
	}
	return nil
}
