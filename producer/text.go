package producer

import (
	"context"
	"fmt"
	"iter"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// Text yields the text of the job's first choice, piece by piece. It is a view of [Stream.Events] and
// yields its errors; a job that ended without success yields its [*schemas.Error]. Where a stream read
// from the start has no deltas, because the job did not ask for them or its record has expired, the
// whole text comes from the Result.
//
// If the generation begins again after text was yielded, Text yields [ErrRestarted] and stops: drop
// the text and range over Text again, which yields that of the new attempt from its start.
func (s *Stream) Text(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for e, err := range s.Events(ctx) {
			if err != nil {
				yield("", err)
				return
			}
			switch {
			case e.Kind == schemas.DeltaKind:
				text, err := firstChoice(e.Choices)
				if err != nil {
					yield("", fmt.Errorf("job %s: event %d: %w", s.job.ID, e.Seq, err))
					return
				}
				if text == "" {
					continue
				}
				s.texted = true
				if !yield(text, nil) {
					return
				}
			case e.Kind == schemas.Restarted && s.texted:
				s.texted = false
				yield("", fmt.Errorf("job %s: %w: %s", s.job.ID, ErrRestarted, e.Reason))
				return
			case e.Kind == schemas.Done && !s.texted && s.after == 0:
				r, err := s.Result(ctx)
				if err != nil {
					yield("", err)
				} else if r.Text != "" {
					yield(r.Text, nil)
				}
				return
			case e.Kind.Terminal() && e.Kind != schemas.Done:
				yield("", fmt.Errorf("job %s: %w", s.job.ID, ended(&e)))
				return
			}
		}
	}
}

// ended is the error of a job that ended without success.
func ended(e *schemas.Event) error {
	if e.Error != nil {
		return e.Error
	}
	code := map[schemas.Kind]schemas.Code{
		schemas.Cancelled: schemas.CodeCancelled, schemas.Expired: schemas.CodeDeadlineExceeded,
	}[e.Kind]
	if code == "" {
		code = schemas.CodeInternal
	}
	return schemas.Errorf(code, "the job ended as %s without saying why", e.Kind)
}

func firstChoice(choices []byte) (string, error) {
	parts, err := openai.ParseChoices(choices, nil)
	if err != nil {
		return "", err
	}
	var text []byte
	for _, p := range parts {
		if p.Index == 0 {
			text = append(text, p.Text...)
		}
	}
	return string(text), nil
}
