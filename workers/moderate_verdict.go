package workers

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/hxp-enterprise/hxp/schemas"
)

// action is what came of a check.
type action string

const (
	actionPass        action = "pass"
	actionMask        action = "mask"
	actionBlock       action = "block"
	actionAudit       action = "audit"
	actionErrorOpen   action = "error_open"
	actionErrorClosed action = "error_closed"
)

var actions = []action{actionPass, actionMask, actionBlock, actionAudit, actionErrorOpen, actionErrorClosed}

// verdict is what moderation did to a job: the gravest of its stages.
type verdict struct {
	Stage      Stage    `json:"stage"`
	Action     action   `json:"action"`
	Policy     string   `json:"policy"`
	Categories []string `json:"categories,omitempty"`
}

// outcome collects the rulings on one stage of a job.
type outcome struct {
	findings  []Finding
	blocked   bool
	unchecked error
	closed    bool // a text was blocked because it could not be checked
}

// maxFindings bounds what is kept of a text that is full of them.
const maxFindings = 1000

func (o *outcome) add(r *Ruling) {
	room := max(0, maxFindings-len(o.findings))
	o.findings = append(o.findings, r.Findings[:min(room, len(r.Findings))]...)
	o.blocked = o.blocked || r.Blocked
	o.closed = o.closed || r.Blocked && r.Unchecked != nil
	if r.Unchecked != nil {
		o.unchecked = r.Unchecked
	}
}

// unseen reports whether what was blocked was blocked for want of a check alone.
func (o *outcome) unseen() bool {
	return o.closed && !slices.ContainsFunc(o.findings, func(f Finding) bool { return !f.Masked })
}

func (o *outcome) action(audit bool) action {
	masked := slices.ContainsFunc(o.findings, func(f Finding) bool { return f.Masked })
	switch {
	case audit && len(o.findings) > 0:
		return actionAudit
	case o.blocked && o.unseen() && !audit:
		return actionErrorClosed
	case o.blocked && !audit:
		return actionBlock
	case o.unchecked != nil:
		return actionErrorOpen
	case masked:
		return actionMask
	}
	return actionPass
}

// categories are those of the findings, each once.
func (o *outcome) categories() []string {
	var out []string
	for _, f := range o.findings {
		if !slices.Contains(out, f.Category) {
			out = append(out, f.Category)
		}
	}
	slices.Sort(out)
	return out
}

// counts says how much was masked: "2 email, 1 phone".
func (o *outcome) counts() string {
	var words []string
	for _, c := range o.categories() {
		n := 0
		for _, f := range o.findings {
			if f.Category == c && f.Masked {
				n++
			}
		}
		if n > 0 {
			words = append(words, fmt.Sprintf("%d %s", n, c))
		}
	}
	return strings.Join(words, ", ")
}

// err is what a blocked job ends with. It names no word of the text.
func (o *outcome) err(stage Stage, policy string) *schemas.Error {
	what := map[Stage]string{StageInput: "the request", StageOutput: "the reply"}[stage]
	if o.unseen() {
		return schemas.Errorf(schemas.CodeContentBlocked, "%s could not be checked (%s), and moderation policy %s blocks what it cannot check", what, stage, policy)
	}
	return schemas.Errorf(schemas.CodeContentBlocked, "%s was blocked (%s) by moderation policy %s: %s", what, stage, policy, strings.Join(o.categories(), ", "))
}

// account counts and logs what came of a stage.
func (w *Worker) account(r *run, stage Stage, o *outcome) action {
	did := o.action(r.policy.Audit())
	r.metrics.moderation.total[stage][did].Inc()
	if did == actionPass {
		return did
	}
	digests := make([]string, 0, 16)
	for _, f := range o.findings[:min(len(o.findings), cap(digests))] {
		digests = append(digests, f.Digest)
	}
	e := w.log.Warn().Str("job", r.job.ID).Str("tenant", r.job.Tenant).Int("attempt", r.attempt).
		Str("stage", string(stage)).Str("policy", r.policy.Name()).Str("action", string(did)).
		Strs("categories", o.categories()).Strs("digests", digests)
	if o.unchecked != nil {
		e = e.AnErr("unchecked", o.unchecked)
	}
	e.Msg("moderation")
	return did
}

// pronounce keeps the verdict on a stage if it is graver than what there is.
func (r *run) pronounce(stage Stage, did action, o *outcome) {
	grave := []action{actionPass, actionAudit, actionErrorOpen, actionMask, actionErrorClosed, actionBlock}
	if r.judged != nil && slices.Index(grave, did) < slices.Index(grave, r.judged.Action) {
		return
	}
	r.judged = &verdict{Stage: stage, Action: did, Policy: r.policy.Name(), Categories: o.categories()}
	r.verdict, _ = json.Marshal(r.judged) // it has nothing that JSON cannot hold
}
