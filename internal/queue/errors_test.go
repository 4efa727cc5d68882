package queue_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// The refusals of a real server, each by the cap that is hit.
func TestPublishErrorOfARealServer(t *testing.T) {
	t.Parallel()
	big := `{"prompt":"` + strings.Repeat("x", 3000) + `"}`
	huge := `{"prompt":"` + strings.Repeat("x", 20<<10) + `"}`
	for _, c := range []struct {
		name string
		cfg  queue.Config
		body string
		code schemas.Code
		word string
		is   error
	}{
		{"tenant's cap", queue.Config{MaxJobsPerTenant: 1}, "{}", schemas.CodeQueueFull, "tenant's cap", nil},
		{"cap on jobs", queue.Config{MaxJobs: 1}, "{}", schemas.CodeQueueFull, "as many jobs as its cap", nil},
		{"cap on bytes", queue.Config{MaxBytes: 1000}, big, schemas.CodeQueueFull, "as many bytes as its cap", nil},
		{"size of a job", queue.Config{MaxJobBytes: 1000}, big, schemas.CodePayloadTooLarge, "max_msg_size", jetstream.ErrStreamMessageExceedsMaximum},
		{"size of a message", queue.Config{}, huge, schemas.CodePayloadTooLarge, "max_payload", nats.ErrMaxPayload},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			js := bare(t, embedded.Config{MaxPayload: 16 << 10})
			if _, err := queue.Ensure(t.Context(), js, []string{"phi3"}, c.cfg); err != nil {
				t.Fatal(err)
			}
			if err := submit(t, js, schemas.Standard, "acme", "job-1"); err != nil {
				t.Fatal(err)
			}
			raw := submitBody(t, js, schemas.Standard, "acme", "job-2", c.body)
			err := queue.PublishError(raw, "phi3")
			e := schemas.AsError(err)
			if e == nil || e.Code != c.code || !strings.Contains(e.Message, c.word) || !strings.Contains(e.Message, `"phi3"`) {
				t.Errorf("PublishError(%v) = %v, want %s with %q", raw, e, c.code, c.word)
			}
			if !errors.Is(err, raw) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%v does not hold the server's error", err)
			}
			if c.name == "tenant's cap" {
				for _, other := range []schemas.Class{schemas.Batch, schemas.Standard} {
					tenant := map[schemas.Class]string{schemas.Batch: "acme", schemas.Standard: "beta"}[other]
					if err := submit(t, js, other, tenant, "job-of-"+tenant); err != nil {
						t.Errorf("one tenant's cap stopped class %s of %s: %v", other, tenant, err)
					}
				}
			}
		})
	}
	t.Run("no such model", func(t *testing.T) {
		t.Parallel()
		js := bare(t, embedded.Config{})
		err := queue.PublishError(submit(t, js, schemas.Standard, "acme", "job-1"), "phi3")
		if schemas.ErrorCode(err) != schemas.CodeModelNotFound {
			t.Errorf("PublishError = %v, want %s", err, schemas.CodeModelNotFound)
		}
	})
	t.Run("no answer", func(t *testing.T) {
		t.Parallel()
		js := broken(t, server.Options{})
		if _, err := js.Conn().SubscribeSync(schemas.JobsOfModel("phi3")); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, raw := js.Publish(ctx, schemas.JobSubject("phi3", schemas.Standard, "acme"), nil)
		err := queue.PublishError(raw, "phi3")
		if e := schemas.AsError(err); e.Code != schemas.CodeInternal || !e.Retryable || !strings.Contains(e.Message, "did not answer in time") {
			t.Errorf("PublishError(%v) = %v", raw, e)
		}
		js.Conn().Close()
		err = queue.PublishError(submit(t, js, schemas.Standard, "acme", "job-1"), "phi3")
		if e := schemas.AsError(err); e.Code != schemas.CodeInternal || !strings.Contains(e.Message, "is closed") {
			t.Errorf("PublishError = %v", e)
		}
	})
}

func TestPublishError(t *testing.T) {
	t.Parallel()
	if err := queue.PublishError(nil, "phi3"); err != nil {
		t.Errorf("PublishError(nil) = %v", err)
	}
	already := schemas.Errorf(schemas.CodeRateLimited, "slow down")
	if err := queue.PublishError(already, "phi3"); err != error(already) {
		t.Errorf("PublishError of a schemas.Error = %v, want it unchanged", err)
	}
	api := func(code jetstream.ErrorCode, text string) error {
		return fmt.Errorf("nats: %w", &jetstream.APIError{Code: 503, ErrorCode: code, Description: text})
	}
	for _, c := range []struct {
		err   error
		code  schemas.Code
		retry bool
		http  int
	}{
		{api(10077, "write /data/1.blk: no space left on device"), schemas.CodeInternal, true, 500},
		{api(10167, "too many requests"), schemas.CodeQueueFull, true, 429},
		{api(10047, "insufficient storage resources available"), schemas.CodeQueueFull, true, 429},
		{api(10002, "resource limits exceeded for account"), schemas.CodeQueueFull, true, 429},
		{api(10059, "stream not found"), schemas.CodeModelNotFound, false, 404},
		{api(10060, "expected stream does not match"), schemas.CodeModelNotFound, false, 404},
		{fmt.Errorf("x: %w", nats.ErrPermissionViolation), schemas.CodeInternal, false, 403},
		{context.Canceled, schemas.CodeInternal, true, 500},
		{errors.New("what is this"), schemas.CodeInternal, true, 500},
	} {
		err := queue.PublishError(c.err, "phi3")
		e := schemas.AsError(err)
		if e.Code != c.code || e.Retryable != c.retry || e.HTTPStatus != c.http || !errors.Is(err, c.err) {
			t.Errorf("PublishError(%v) = %+v, want %s, retryable %v, status %d", c.err, e, c.code, c.retry, c.http)
		}
	}
}
