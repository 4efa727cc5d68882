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
// # Shutdown
//
// When the context given to [Worker.Run] ends, nothing new is pulled and the jobs in flight have
// [Config.DrainTimeout] to finish. What is left is handed back at once, and another worker takes it
// without a failure being counted.
package workers
