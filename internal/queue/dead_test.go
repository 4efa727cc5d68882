package queue_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/schematest"
	"github.com/hxp-enterprise/hxp/schemas"
)

func letter(model, tenant, id string) *schemas.DeadLetter {
	reason := schemas.Errorf(schemas.CodeMaxAttempts, "gave up after 2 attempts")
	return &schemas.DeadLetter{
		ID: id, Model: model, Tenant: tenant, Subject: schemas.JobSubject(model, schemas.Standard, tenant), Reason: reason,
		Attempts: []schemas.Attempt{{Attempt: 1, Worker: "w1", Error: reason}}, Payload: `{"body":{}}`, Time: time.Unix(1_767_000_000, 0).UTC(),
	}
}

func letters(t *testing.T, js queueJS, f queue.DeadFilter) (ids []string) {
	t.Helper()
	for d, err := range queue.DeadLetters(t.Context(), js, f) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, d.ID)
	}
	return ids
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	ctx := t.Context()
	all := []*schemas.DeadLetter{
		letter("phi3", "acme", "j1"), letter("phi3", "beta", "j2"), letter("mixtral", "acme", "j3"), letter("mixtral", "beta", "j4"),
	}
	for _, d := range append(all, all[0]) { // the last is a repetition
		if err := queue.PutDeadLetter(ctx, js, d); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		filter queue.DeadFilter
		want   []string
	}{
		{queue.DeadFilter{}, []string{"j1", "j2", "j3", "j4"}},
		{queue.DeadFilter{Model: "phi3"}, []string{"j1", "j2"}},
		{queue.DeadFilter{Tenant: "acme"}, []string{"j1", "j3"}},
		{queue.DeadFilter{Model: "mixtral", Tenant: "beta"}, []string{"j4"}},
		{queue.DeadFilter{Model: "none"}, nil},
		{queue.DeadFilter{Limit: 2}, []string{"j1", "j2"}},
		{queue.DeadFilter{From: 3}, []string{"j3", "j4"}},
	} {
		if got := letters(t, js, c.filter); !slices.Equal(got, c.want) {
			t.Errorf("DeadLetters(%+v) = %q, want %q", c.filter, got, c.want)
		}
	}

	found, err := queue.FindDeadLetter(ctx, js, "j3", queue.DeadFilter{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := queue.GetDeadLetter(ctx, js, found.Stored)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(*all[2], got.DeadLetter); d != "" {
		t.Errorf("letter (-want +got):\n%s", d)
	}
	stream, err := js.Stream(ctx, schemas.DeadStream)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetMsg(ctx, found.Stored)
	if err != nil {
		t.Fatal(err)
	}
	schematest.Validate(t, "dead-letter", msg.Data)

	if err := queue.DeleteDeadLetter(ctx, js, found.Stored); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"Delete": func() error { return queue.DeleteDeadLetter(ctx, js, found.Stored) },
		"Get":    func() error { _, err := queue.GetDeadLetter(ctx, js, found.Stored); return err },
		"Get 0":  func() error { _, err := queue.GetDeadLetter(ctx, js, 0); return err },
		"Find":   func() error { _, err := queue.FindDeadLetter(ctx, js, "j3", queue.DeadFilter{}); return err },
	} {
		if err := call(); !errors.Is(err, queue.ErrNotFound) {
			t.Errorf("%s after the deletion = %v, want %v", name, err, queue.ErrNotFound)
		}
	}
	if n, err := queue.PurgeDead(ctx, js, queue.DeadFilter{Tenant: "acme"}); err != nil || n != 1 {
		t.Errorf("PurgeDead of acme = %d, %v; want 1", n, err)
	}
	if n, err := queue.PurgeDead(ctx, js, queue.DeadFilter{}); err != nil || n != 2 {
		t.Errorf("PurgeDead = %d, %v; want 2", n, err)
	}
}

func TestDeadFilterIsChecked(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	for _, f := range []queue.DeadFilter{{Model: ">"}, {Tenant: "a b"}} {
		for _, err := range queue.DeadLetters(t.Context(), js, f) {
			if schemas.ErrorCode(err) != schemas.CodeInvalidRequest {
				t.Errorf("DeadLetters(%+v) = %v", f, err)
			}
		}
		if _, err := queue.PurgeDead(t.Context(), js, f); schemas.ErrorCode(err) != schemas.CodeInvalidRequest {
			t.Errorf("PurgeDead(%+v) = %v", f, err)
		}
	}
	if _, err := queue.PurgeDead(t.Context(), js, queue.DeadFilter{Limit: 1}); err == nil {
		t.Error("PurgeDead took a limit that it does not keep")
	}
}

// What is on a dead subject and is no dead letter is named, so that it can be deleted.
func TestDamagedDeadLetter(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	ack, err := js.Publish(t.Context(), schemas.DeadSubject("phi3", "acme"), []byte("junk"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = queue.FindDeadLetter(t.Context(), js, "j1", queue.DeadFilter{})
	if err == nil || !strings.Contains(err.Error(), "message 1 on hxp.v1.dead.phi3.acme is not a dead letter") {
		t.Errorf("FindDeadLetter = %v", err)
	}
	if err := queue.DeleteDeadLetter(t.Context(), js, ack.Sequence); err != nil {
		t.Error(err)
	}
	if got := letters(t, js, queue.DeadFilter{}); len(got) != 0 {
		t.Errorf("letters = %q, want none", got)
	}
}

// A job that is too large for a dead letter is given up all the same.
func TestLargeDeadLetter(t *testing.T) {
	t.Parallel()
	js := bare(t, embedded.Config{MaxPayload: 64 << 10})
	if _, err := queue.Ensure(t.Context(), js, nil, queue.Config{}); err != nil {
		t.Fatal(err)
	}
	d := letter("phi3", "acme", "j1")
	d.Payload = strings.Repeat(`"`, 50<<10) // 100 KiB as JSON
	noReason := letter("phi3", "acme", "j2")
	noReason.Payload, noReason.PayloadBase64, noReason.Reason = "", make([]byte, 70<<10), nil
	for _, d := range []*schemas.DeadLetter{d, noReason} {
		if err := queue.PutDeadLetter(t.Context(), js, d); err != nil {
			t.Fatal(err)
		}
		got, err := queue.FindDeadLetter(t.Context(), js, d.ID, queue.DeadFilter{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Payload != "" || got.PayloadBase64 != nil || !strings.Contains(got.Reason.Message, "was left out") {
			t.Errorf("letter = %+v, %v; want no payload and a reason that says so", got, got.Reason)
		}
	}
	if d.Payload == "" || strings.Contains(d.Reason.Message, "left out") {
		t.Error("the caller's letter was changed")
	}
	huge := letter("phi3", "acme", "j3")
	huge.Subject = strings.Repeat("x", 70<<10)
	if err := queue.PutDeadLetter(t.Context(), js, huge); err == nil {
		t.Error("a letter that cannot be stored was taken")
	}
}
