package workers

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/hxp-enterprise/hxp/conversation"
)

// moderateSystem checks the system prompt of a session where a job is shown it, as if the job had brought it.
// It was stored without a policy: sessions have no model.
func (w *Worker) moderateSystem(ctx context.Context, r *run, path *conversation.Path) error {
	if path.Session.System == "" || r.policy == nil || !r.policy.Checks(StageInput) || r.turn.bringsSystem() {
		return nil
	}
	in := &input{parts: []inputText{{field: "session", text: path.Session.System}}}
	if r.policy.Audit() {
		w.auditInput(r, in, nil)
		return nil
	}
	rulings, o, err := w.awaitInput(ctx, r, in, nil)
	if err != nil {
		return err
	}
	did := o.action(false)
	if did == actionPass {
		return nil // the stage was counted with the job's own texts
	}
	w.account(r, StageInput, o)
	r.pronounce(StageInput, did, o)
	switch did {
	case actionBlock, actionErrorClosed:
		return o.err(StageInput, r.policy.Name()).WithParam("session")
	default:
		if counts := o.counts(); counts != "" {
			r.said = sentences(r.said, fmt.Sprintf("moderation policy %s masked %s in the session's system prompt", r.policy.Name(), counts))
		}
	}
	shown := *path.Session
	shown.System = string(edit(nil, []byte(shown.System), 0, rulings[0].Edits))
	path.Session = &shown
	return nil
}

// bringsSystem reports whether the turn's own messages begin with a system prompt, which then counts.
func (t *turn) bringsSystem() bool {
	var first chatMessage
	if len(t.fresh) > 0 && json.Unmarshal(t.fresh[0].Body, &first.fields) == nil {
		_ = json.Unmarshal(first.fields["role"], &first.role) // checkMessages has looked at it
	}
	return first.system()
}
