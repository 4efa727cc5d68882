package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/hxp-enterprise/hxp/conversation"
)

// The forms of an export.
const (
	// FormJSON is a whole session: all branches, byte for byte.
	FormJSON = "json"
	// FormShareGPT is one path, text alone, as data sets keep conversations.
	FormShareGPT = "sharegpt"
)

// Export writes a session in a form, and says how many parts have no place in it, such as images.
func (s *Sessions) Export(ctx context.Context, id, form, turn string) (data []byte, lost int, err error) {
	switch {
	case form == FormShareGPT:
		data, lost, err = s.Store.ExportShareGPT(ctx, s.Ref(id), turn)
	case form != FormJSON:
		return nil, 0, fmt.Errorf("%w: form %q is none of json, sharegpt", ErrUsage, form)
	case turn != "":
		return nil, 0, fmt.Errorf("%w: a turn is chosen, but the form json has all of them: it goes with sharegpt", ErrUsage)
	default:
		data, err = s.Store.Export(ctx, s.Ref(id))
	}
	return append(bytes.TrimRight(data, "\n"), '\n'), lost, s.explain(id, err)
}

// maxImport bounds what an import reads, maxImported how many sessions it makes.
const (
	maxImport   = 32 << 20
	maxImported = 1000
)

// Import makes new sessions of what was exported: a document in either form, an array of them, or one after the other. What into
// leaves empty is taken from there. If some cannot be made, the error is a [*PartlyError].
func (s *Sessions) Import(ctx context.Context, r io.Reader, into conversation.NewSession) ([]*conversation.Session, error) {
	into.Tenant = s.Tenant
	documents, err := readDocuments(r)
	if err != nil {
		return nil, err
	}
	var out []*conversation.Session
	var failed []error
	for i, doc := range documents {
		session, err := s.importOne(ctx, doc, into)
		if err != nil {
			failed = append(failed, fmt.Errorf("document %d: %w", i+1, s.explain("", err)))
			continue
		}
		out = append(out, session)
	}
	return out, partly(len(documents), failed)
}

func (s *Sessions) importOne(ctx context.Context, doc json.RawMessage, into conversation.NewSession) (*conversation.Session, error) {
	var fields struct {
		Type          json.RawMessage `json:"type"`
		Conversations json.RawMessage `json:"conversations"`
	}
	if err := json.Unmarshal(doc, &fields); err != nil {
		return nil, fmt.Errorf("it is no JSON object: %w", err)
	}
	switch {
	case fields.Type != nil:
		return s.Store.Import(ctx, bytes.NewReader(doc), into)
	case fields.Conversations != nil:
		return s.Store.ImportShareGPT(ctx, bytes.NewReader(doc), into)
	}
	return nil, errors.New(`it is neither an export of hxp, which has a "type", nor in ShareGPT's form, which has "conversations"`)
}

// readDocuments takes a file apart.
func readDocuments(r io.Reader) ([]json.RawMessage, error) {
	limited := &io.LimitedReader{R: r, N: maxImport + 1}
	decoder := json.NewDecoder(limited)
	var out []json.RawMessage
	for {
		var value json.RawMessage
		err := decoder.Decode(&value)
		switch {
		case limited.N == 0:
			return nil, fmt.Errorf("import is longer than %s", Bytes(maxImport))
		case errors.Is(err, io.EOF) && len(out) == 0:
			return nil, errors.New("import is empty")
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, fmt.Errorf("import: %w", err)
		}
		if value[0] == '[' {
			var several []json.RawMessage
			if err := json.Unmarshal(value, &several); err != nil {
				return nil, fmt.Errorf("import: %w", err)
			}
			out = append(out, several...)
		} else {
			out = append(out, value)
		}
		if len(out) > maxImported {
			return nil, fmt.Errorf("import has more than %d conversations; want at most that many in one file", maxImported)
		}
	}
}
