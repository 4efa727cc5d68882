// Package workers runs beside an engine: it pulls jobs of one model from the queue, has the engine
// generate, streams the tokens back, and settles each job exactly once.
//
// # The life of a job in a worker
//
//  1. pull.go takes as many jobs as there are free slots, most urgent class first, with a small
//     guaranteed share for the lower classes. A worker never keeps a job that it cannot start.
//  2. admit.go decides whether the job may run: already answered? cancelled? past its deadline? out
//     of attempts? valid, and does the prompt fit?
//  3. attempt.go opens an attempt, turns the engine's deltas into events and bounds the time between them.
//  4. finish.go stores the Result (the first writer wins), publishes the terminal event, and
//     settle.go acknowledges the message.
//
// # Delivery
//
// A job is delivered at least once and answered exactly once. The lease on a job is the broker's
// acknowledgement deadline, renewed by lease.go on a connection of its own and only while the
// engine makes progress on that job; a worker that is killed loses its jobs to others after one
// lease. Acknowledgements are not fenced, so the Result is the fence: it is stored under the
// condition that there is none yet.
//
// Failures are counted from the job's recorded events, not from deliveries: an attempt that was
// opened and neither ended nor handed back has failed, because the job may be what its worker died
// of. But the worker may live, and have lost no more than the lease, to a starved machine or a broker
// that was away: so whoever is given the job next asks it (excuse.go), and the event that opens the
// new attempt excuses the old one. A job that runs out of attempts leaves a dead letter that names
// every one of them.
//
// A queued job that no worker gets to is ended by the [Janitor]: one of those that run, in every
// worker process, holds a lock and works.
//
// # Conversations
//
// A job with a session ([schemas.Session]) brings the new messages alone. session.go claims its turn,
// session_window.go puts the history that fits in front of them, and everything else of the request stays as it
// came. The opening event says which turn is answered and what of the history is left out. A session that is not
// there is made.
//
// At the end come, in this order, the turn, the Result, the terminal event and the acknowledgement (session_commit.go).
// One job makes one turn, and whatever dies in between, the turn holds the text of the Result: an attempt that finds
// its turn stored gives that reply and asks no engine (session_replay.go), even if the job has been cancelled since;
// one whose reply is another than the stored one is handed back and does the same the next time.
//
// While Redis is away a job waits, which costs it no attempt (session_wait.go). If Redis is away when a reply is
// complete, and for [Sessions.CommitTimeout] after, the job ends all the same, with a turn that is pending: the worker gives the
// slot back, keeps the lease and stores the turn when it can (session_late.go). Whoever is given the job after it finds in
// the Result what is owed. The janitor leaves such a job in the queue until its Result is about to expire. At most 1,000 turns, or 64 MiB, wait in one
// worker; beyond, a Result says that its turn was dropped.
//
// A turn that did not finish is kept apart from history, or dropped if it has no words. Two turns at once branch, unless
// [Sessions.Serialize] or the job refuses the second. A job that names the revision which it expects fails if
// the session has moved on, at its start or at its end.
//
// Summaries are jobs of class batch (session_summary.go): a worker queues one when a window asks for it, under an id made
// of the turn, and the worker that runs it stores what the model wrote for all branches through that turn.
//
// # Batching
//
// Batch completions of one shape go to the engine as one request with a list of prompts, and the
// reply is taken apart again by the index of its choices: group.go collects the jobs, groupshape.go says
// which belong together, groupmember.go gives each its own part. One HTTP request then stands
// for up to [Config.GroupSize] jobs. A group is sent when it is full, or [Config.GroupWait] after its
// first member came; a lone member sends its request as it came.
//
// A shape is the request without its prompt: the same top-level fields with the same values, whatever
// their order, and a prompt of the same kind, text or token ids. Left out of the comparison is what
// the engine replaces (model, stream, stream_options, return_token_ids). A seed, log
// probabilities and a grammar may be shared: the engine applies them to each prompt by itself. Not
// grouped is a job
//
//   - of another class than batch, or another endpoint than /v1/completions;
//   - that asks for several prompts or choices (n, best_of), or for what does not belong to one
//     choice: echo, suffix, prompt_logprobs, prompt_embeds, use_beam_search, request_id,
//     kv_transfer_params, ec_transfer_params;
//   - with a body above 64 KiB, so also one that travels by reference;
//   - that has been attempted before. So a continuation goes alone, and so does every retry: what
//     broke a group is alone the next time, and fails alone;
//   - on an engine that does not tell the token ids of each prompt and each choice ([Health.TokenIDs]).
//     Usage could not be told apart there, nor a reply continued. If the ids are missing although
//     they were promised, the members are sent alone before anything of theirs was said.
//
// A member sees what it would see alone: its own deltas with index 0, its prompt's tokens, the usage counted
// from its own token ids, and its end as soon as its own finish reason came. It holds its own slot
// and its own lease; its progress is its own deltas. Its record is like any other, so a later
// attempt continues it. A group is of one tenant: an engine's words on a request may quote any of
// its prompts.
//
// A member that is cancelled, stalls or expires leaves, and the others go on. The engine cannot
// abort one prompt of a request, so that sequence runs on until the last member has left or
// ended; then the request is aborted. A member that is slow to take its deltas holds nobody up: they are kept
// for it, at most as many as it may generate tokens.
//
// Errors. A request that is refused before its first token (400) is sent again in two halves, and so
// on down to the single prompt, which gets the refusal as its own. A retryable failure goes to every member that has
// not ended, as one failure of its own attempt. A refusal after the first token may be
// anyone's: every member is retried, alone.
//
// # Capacity
//
// How many sequences are in flight is decided here and not by the engine, whose own queue knows
// neither classes nor deadlines and has no end: a job that waits there is committed to this worker.
// There is a limit of slots, the lowest of four bounds, each looked at every [Config.LoadInterval]:
//
//   - configured: [Config.Slots], the engine's max_num_seqs.
//   - waiting: what the engine computes, and two more to keep it fed, once a queue stands in it. A
//     queue that is gone at the next look was a burst.
//   - kv_cache: falls while the engine's KV cache is over nine tenths full and when it preempts
//     sequences, since those are computed twice; comes back slowly.
//   - latency: falls while the engine is slower than [Config.TargetLatency] or
//     [Config.TargetInterToken], and comes back as far as it is faster.
//
// A bound rises to no more than twice of what is in flight: what was not tried proves nothing. A look
// that fails changes nothing. An engine that reports no load is bounded by Slots and by its latency,
// which the worker measures itself. A limit below what is in flight stops no job; nothing new is
// pulled until enough have ended.
//
// Classes share what the limit allows. [Config.Reserved] slots stay free of less urgent jobs. Batch
// fills the slack: it is asked for when the more urgent queues are empty, more than its reserved
// slots are free, and the engine shows no pressure, which it does before a bound falls. What it has
// earned by [Config.BatchShare] is started all the same, and so is one job when nothing else runs.
//
// A request for more tokens than the engine's KV cache holds would wait in it for ever, and
// everything behind it; it fails with context_length_exceeded.
//
// # Health
//
// A worker is in one state: starting, ready, degraded, down or draining. health.go derives it from
// causes, each noted and taken back by one keeper of the gate; the gravest decides, and a drain
// overrides all. The same causes drive the pulling, /readyz, the metrics and the registry entry.
//
//	cause                state     pulls  while
//	queue_unreachable    down      no     there is no connection to the broker
//	leases_not_renewed   down      no     the broker does not confirm leases (lease.go)
//	results_not_stored   down      no     a Result cannot be stored (finish.go)
//	engine_down          down      no     the engine does not say that it is well
//	engine_hung          down      no     it says so, and did not generate a token when asked for one
//	breaker_open         down      no     too many attempts failed by the engine's fault
//	engine_starting      starting  no     the engine has not been ready yet
//	engine_restarting    degraded  no     it was, and is being started again
//	engine_in_doubt      degraded  no     it failed a job, or stands still, and has not been looked at since
//	breaker_half_open    degraded  no     the breaker tries the engine out
//	engine_pressure      degraded  yes    the engine makes sequences wait, or is short of KV cache
//	saturated            degraded  yes    no slot was free for five looks, and more jobs are queued
//	slow                 degraded  yes    the 90th percentile of the time to the first token is above [Config.TargetLatency]
//
// A lost connection is not seen by the gate: pulls that were out are made anew when it is back.
// /readyz is 200 exactly while the worker pulls.
//
// A passing health check proves little: vLLM's API server answers 200 while its engine hangs. So
// watch.go has the engine generate a token, its canary, before the gate opens again after an attempt
// that stalled; and when the engine has had sequences and computed no token for
// [Config.TokenTimeout], though no job here has stalled yet. An engine that fails its canary is
// asked to restart, if it is a [Restarter]; not while another job still gets tokens.
//
// breaker.go counts the attempts of a sliding window: those that were complete, and those that failed
// by the engine's fault, by an error or a stall; a group counts as one. What is wrong with a request,
// cancels, deadlines and hand-backs say nothing about the engine. When too many have failed nothing
// is pulled, and the jobs wait for other workers; the engine is tried out with canaries, never with
// somebody's job.
//
// # Moderation
//
// A [Moderator] names the policy for a tenant's jobs of a model; package moderation has one. moderate.go
// has it check the texts of a request in admission, after the cheap questions and before the engine hears of
// it: what is blocked ends the job with content_blocked, what is masked is changed in the body, and the
// opening event says so. moderate_input.go takes the texts out of the body and puts them back.
//
// screen.go stands between the engine's deltas and everything that can be read: events, record,
// answer, Result and log. A delta goes on when all of it is settled: its content, its reasoning, its
// refusal, and the names and arguments of its tool calls, each a text of its own for each choice. Token ids and
// log probabilities may be ahead of the text, and wait for it. Deltas keep their order. A reply that is
// blocked ends where it is settled, its engine's request is aborted at once, and the job fails with
// content_blocked; what was sent before stays valid. A delta that is masked has its text alone,
// without tokens, so such a reply begins again after an interruption, and says so. Any other is
// continued, and checked together with what was sent.
//
// A turn of a session is stored masked, with the verdict; one that is blocked is no part of the history.
//
// While a job waits for moderation the engine's silence does not count. A policy that only audits
// changes nothing, and no job waits for it.
//
// # Fallback
//
// A worker can cover other models ([Config.Covers]). When the registry has shown no live worker of
// one for [Cover.After], the worker takes its jobs as well, until there is one again. Live is a
// worker that takes jobs: ready, or degraded and pulling. One that starts, drains or is down is not,
// and a registry that cannot be read counts as if one were there. The worker's own jobs come first:
// a covered model's are taken while the own queue is empty, and not into the last eighth of the slots.
//
// The opening event and the Result name the model that answered (served_by), and the event says why.
// Text of one model is never continued by another: the reply begins again, and says so. A job that
// the covering model cannot run, for its shorter window or narrower limits, is handed back and waits
// for its own. Such hand-backs are no failures; failures of the covering engine count as any other.
//
// Jobs are counted under the model that was asked for, because that is whose users see them;
// hxp_fallback_jobs_total tells how many another served. What the engine does, its slots, health and
// breaker, is counted under its own model.
//
// # Shutdown
//
// When the context given to [Worker.Run] ends, nothing new is pulled and the jobs in flight have
// [Config.DrainTimeout] to finish. What is left is handed back at once, and another worker takes it
// without a failure being counted.
package workers
