package queue_test

import (
	"testing"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestPutJobQueuesItOnce(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{MaxJobsPerTenant: 1})
	job := schemas.Job{ID: "j1", Model: "phi3", Tenant: "acme", Body: []byte(`{"prompt":"x"}`)}
	job.SetDefaults()
	for range 2 {
		if err := queue.PutJob(t.Context(), js, &job); err != nil {
			t.Fatal(err)
		}
	}
	s, err := js.Stream(t.Context(), schemas.JobsStream("phi3"))
	if err != nil {
		t.Fatal(err)
	}
	msg, err := s.GetMsg(t.Context(), 1)
	if err != nil || s.CachedInfo().State.Msgs != 1 {
		t.Fatalf("the queue holds %d jobs (%v), want one", s.CachedInfo().State.Msgs, err)
	}
	got, err := schemas.DecodeJob(msg.Subject, msg.Data, "")
	if err != nil || got.ID != "j1" || got.Class != schemas.Standard || string(got.Body) != `{"prompt":"x"}` {
		t.Errorf("job = %+v (%v)", got, err)
	}
	job.ID = "j2"
	if err := queue.PutJob(t.Context(), js, &job); schemas.ErrorCode(err) != schemas.CodeQueueFull {
		t.Errorf("a job too many: %v, want queue_full", err)
	}
	job.Model = "none"
	if err := queue.PutJob(t.Context(), js, &job); schemas.ErrorCode(err) != schemas.CodeModelNotFound {
		t.Errorf("a job for nobody: %v, want model_not_found", err)
	}
	job.Body = nil
	if err := queue.PutJob(t.Context(), js, &job); schemas.ErrorCode(err) != schemas.CodeInvalidRequest {
		t.Errorf("no job: %v, want invalid_request", err)
	}
}
