package producer_test

import (
	"context"
	"errors"
	"testing"

	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

// text ranges over a stream's text once.
func text(t *testing.T, s *producer.Stream) (string, error) {
	t.Helper()
	all := ""
	for piece, err := range s.Text(t.Context()) {
		if err != nil {
			return all, err
		}
		all += piece
	}
	return all, nil
}

func TestTextIsTheFirstChoice(t *testing.T) {
	t.Parallel()
	x := newScene(t, producer.Config{})
	x.live(1, 1, schemas.Started, "")
	e := x.event(1, 2, schemas.DeltaKind, "")
	e.Choices = []byte(`[{"index":1,"text":"other"},{"index":0,"text":"He"},{"index":0,"text":"l"}]`)
	x.publish(x.k.subject, e)
	e.Seq, e.Choices = 3, []byte(`[{"index":1,"text":"more"}]`)
	x.publish(x.k.subject, e)
	x.live(1, 4, schemas.DeltaKind, "lo")
	x.live(1, 5, schemas.Done, "")
	var first string
	for piece, err := range x.s.Text(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		first = piece
		break
	}
	rest, err := text(t, x.s)
	if err != nil || first != "Hel" || rest != "lo" {
		t.Errorf("text = %q, then %q, %v; want Hel, lo", first, rest, err)
	}
}

func TestTextOfARestartedJob(t *testing.T) {
	t.Parallel()
	x := newScene(t, producer.Config{})
	x.live(1, 1, schemas.Started, "")
	x.live(2, 2, schemas.Restarted, "") // nothing was shown: nothing is void
	x.live(2, 3, schemas.DeltaKind, "old")
	x.live(3, 4, schemas.Restarted, "")
	x.live(3, 5, schemas.DeltaKind, "new")
	x.live(3, 6, schemas.Done, "")
	if got, err := text(t, x.s); got != "old" || !errors.Is(err, producer.ErrRestarted) {
		t.Errorf("text = %q, %v; want old and ErrRestarted", got, err)
	}
	if got, err := text(t, x.s); got != "new" || err != nil {
		t.Errorf("text = %q, %v; want new", got, err)
	}
}

func TestTextOfAJobThatDoesNotStream(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	r.work(func(k *task) {
		k.emit(schemas.Event{Kind: schemas.Started})
		k.text = k.job.Metadata["answer"]
		k.end(schemas.StatusCompleted, nil)
	})
	c := r.client(producer.Config{})
	for _, want := range []string{"all at once", ""} {
		job := chat()
		job.Body, job.Metadata = []byte(`{"prompt":"x"}`), map[string]string{"answer": want}
		if got, err := text(t, submit(t, c, job)); got != want || err != nil {
			t.Errorf("text = %q, %v; want %q", got, err, want)
		}
	}
}

func TestTextOfAJobThatFails(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		kind schemas.Kind
		err  *schemas.Error
		want schemas.Code
	}{
		{schemas.Failed, schemas.Errorf(schemas.CodeMaxAttempts, "3 attempts"), schemas.CodeMaxAttempts},
		{schemas.Failed, nil, schemas.CodeInternal},
		{schemas.Cancelled, nil, schemas.CodeCancelled},
		{schemas.Expired, nil, schemas.CodeDeadlineExceeded},
	} {
		x := newScene(t, producer.Config{})
		e := x.event(1, 1, tc.kind, "")
		e.Error = tc.err
		x.publish(x.k.subject, e)
		if got, err := text(t, x.s); got != "" || schemas.ErrorCode(err) != tc.want {
			t.Errorf("%s: text = %q, %v; want code %s", tc.kind, got, err, tc.want)
		}
	}
}

func TestTextPassesErrorsOn(t *testing.T) {
	t.Parallel()
	x := newScene(t, producer.Config{})
	e := x.event(1, 1, schemas.DeltaKind, "")
	e.Choices = []byte(`[{"index":"x"}]`)
	x.publish(x.k.subject, e)
	if _, err := text(t, x.s); err == nil {
		t.Error("choices that cannot be read are no error")
	}
	x.live(1, 2, schemas.Done, "")
	ctx, cancel := context.WithCancel(t.Context())
	for _, err := range x.s.Events(ctx) { // reads Done
		if err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	y := newScene(t, producer.Config{})
	for _, err := range y.s.Text(ctx) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("text = %v, want Canceled", err)
		}
	}
	y.live(1, 1, schemas.Done, "")
	y.flush()
	y.s.Close() // Done has arrived, and there is no Result to take the text from
	if _, err := text(t, y.s); !errors.Is(err, producer.ErrClosed) {
		t.Errorf("text = %v, want ErrClosed", err)
	}
}
