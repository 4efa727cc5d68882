package schemas_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/schemas"
)

// codes are all of them, with what an edge answers and whether to try again.
var codes = map[schemas.Code]struct {
	status    int
	retryable bool
}{
	schemas.CodeInvalidRequest:        {400, false},
	schemas.CodeModelNotFound:         {404, false},
	schemas.CodeContextLengthExceeded: {400, false},
	schemas.CodeQueueFull:             {429, true},
	schemas.CodeDeadlineExceeded:      {504, false},
	schemas.CodeCancelled:             {499, false},
	schemas.CodeEngineUnavailable:     {503, true},
	schemas.CodeRateLimited:           {429, true},
	schemas.CodeContentBlocked:        {403, false},
	schemas.CodeSessionConflict:       {409, false},
	schemas.CodeMaxAttempts:           {502, false},
	schemas.CodePayloadTooLarge:       {413, false},
	schemas.CodeInternal:              {500, true},
}

func TestErrorf(t *testing.T) {
	t.Parallel()
	for code, want := range codes {
		e := schemas.Errorf(code, "%d of %s", 2, "them")
		if diff := cmp.Diff(&schemas.Error{Code: code, Message: "2 of them", Retryable: want.retryable, HTTPStatus: want.status}, e); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got, want := e.Error(), string(code)+": 2 of them"; got != want {
			t.Errorf("Error() = %q, want %q", got, want)
		}
	}
	if e := schemas.Errorf("odd", "x"); e.Code != "odd" || !e.Retryable || e.HTTPStatus != 500 {
		t.Errorf("an unknown code = %+v, want it treated as internal", e)
	}
}

func TestErrorCopies(t *testing.T) {
	t.Parallel()
	e := schemas.Errorf(schemas.CodeQueueFull, "full")
	if p := e.WithParam("model"); p.Param != "model" || e.Param != "" {
		t.Errorf("WithParam = %+v of %+v", p, e)
	}
	if p := e.Permanent(); p.Retryable || !e.Retryable {
		t.Errorf("Permanent = %+v of %+v", p, e)
	}
}

func TestErrorsAreFoundInChains(t *testing.T) {
	t.Parallel()
	e := schemas.Errorf(schemas.CodeQueueFull, "full")
	chain := fmt.Errorf("submit: %w", errors.Join(errors.New("x"), e))
	if got := schemas.AsError(chain); got != e {
		t.Errorf("AsError = %v, want %v", got, e)
	}
	if got := schemas.ErrorCode(chain); got != schemas.CodeQueueFull {
		t.Errorf("ErrorCode = %q, want queue_full", got)
	}
	plain := errors.New("boom")
	if got := schemas.AsError(plain); got.Code != schemas.CodeInternal || got.Message != "boom" {
		t.Errorf("AsError of a plain error = %+v", got)
	}
	if got := schemas.ErrorCode(plain); got != "" {
		t.Errorf("ErrorCode of a plain error = %q", got)
	}
	if got := schemas.AsError(nil); got != nil {
		t.Errorf("AsError(nil) = %v", got)
	}
	if got := schemas.ErrorCode(nil); got != "" {
		t.Errorf("ErrorCode(nil) = %q", got)
	}
}
