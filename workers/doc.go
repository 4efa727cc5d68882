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
// opened and neither ended nor handed back has failed. A job that runs out of attempts leaves a
// dead letter that names every one of them.
//
// A queued job that no worker gets to is ended by the [Janitor]: one of those that run, in every
// worker process, holds a lock and works.
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
// # Shutdown
//
// When the context given to [Worker.Run] ends, nothing new is pulled and the jobs in flight have
// [Config.DrainTimeout] to finish. What is left is handed back at once, and another worker takes it
// without a failure being counted.
package workers
