package workers

import "context"

// audit has a stage of a job looked at while the job goes on.
func (w *Worker) audit(r *run, check func(ctx context.Context) *outcome) {
	w.auditing.Go(func() { w.account(r, StageInput, check(context.WithoutCancel(r.jobs))) })
}
