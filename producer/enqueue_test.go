package producer_test

import (
	"errors"
	"testing"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestEnqueueOpensNoStream(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	c := r.client(producer.Config{InlineBytes: 64})
	job := chat()
	job.ID = "mine"
	for _, again := range []bool{false, true} {
		if duplicate, err := c.Enqueue(t.Context(), job); err != nil || duplicate != again {
			t.Errorf("Enqueue = %t, %v; want %t", duplicate, err, again)
		}
	}
	large := chat()
	large.ID, large.Body = "large", []byte(`{"messages":[],"user":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}`)
	if _, err := c.Enqueue(t.Context(), large); err != nil {
		t.Fatal(err)
	}
	if body, _, err := queue.GetBody(t.Context(), r.js, tenant, "large", 1<<10); err != nil || string(body) != string(large.Body) {
		t.Errorf("body = %s, %v", body, err)
	}
	r.work(say("Hi"))
	if got, err := c.Wait(t.Context(), "mine"); err != nil || got.Text != "Hi" {
		t.Errorf("Wait = %+v, %v", got, err)
	}
	bad := chat()
	bad.Class = "urgent"
	if _, err := c.Enqueue(t.Context(), bad); schemas.ErrorCode(err) != schemas.CodeInvalidRequest {
		t.Errorf("Enqueue = %v", err)
	}
	lost := chat()
	lost.Model = "gone"
	if _, err := c.Enqueue(t.Context(), lost); schemas.ErrorCode(err) != schemas.CodeModelNotFound {
		t.Errorf("Enqueue = %v", err)
	}
	lost.Body = large.Body
	s := r.client(producer.Config{InlineBytes: 64})
	if err := r.js.DeleteStream(t.Context(), "OBJ_"+schemas.BodiesBucket); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Enqueue(t.Context(), lost); err == nil || errors.Is(err, producer.ErrTimeout) {
		t.Errorf("Enqueue = %v", err)
	}
}
