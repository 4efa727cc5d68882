// Package vllm is the [workers.Engine] that speaks HTTP to `vllm serve`, or to any server with the
// same OpenAI-compatible API.
//
// In the life of a job it stands between the worker, which has admitted a [workers.Request], and
// the GPU: [Engine.Generate] posts the request, reads the server-sent events of the reply and yields
// them as [workers.Delta]. It decides nothing about the job: it says exactly what happened, as a
// [*schemas.Error] whose Retryable tells whether another attempt may succeed.
//
// # Complete or not
//
// vLLM ends every stream with [DONE], after an error too, and a stream whose process died simply
// stops. A reply therefore counts as complete only when every expected choice (n for each prompt)
// has had a finish reason and [DONE] was seen. Everything else is an error.
//
// # Aborts
//
// vLLM aborts a generation when the client hangs up. However the loop over Generate ends before the
// reply is complete (break, cancelled context, panic), the connection is closed, and so the sequence
// leaves the GPU at the engine's next step. A complete reply gives its connection back to the pool.
//
// # Engines that are not vLLM
//
// A server without GET /version is taken for something else: llama.cpp's server, Ollama, a proxy.
// It can generate; [Engine.Health] says in words what it cannot do and what is lost by that.
//
// # Priority
//
// With [Config.Priority] a request carries vLLM's `priority`, lower first: interactive 0, standard 10,
// batch 20. vLLM orders its waiting queue by it, and preempts the running sequence of the worst.
// It refuses any but 0 unless it runs with --scheduling-policy priority. Then the request is
// repeated without one, none is sent any more until the engine is another one or has been away, and
// [Engine.Health] says so. A body may not set a priority of its own, with or without this setting:
// a tenant's place is that of the job's class. Such a request is refused, and not changed silently.
//
// # Errors
//
// What the engine answers is mapped as follows. A request that the engine finds wrong fails the job;
// everything that is the engine's or the operator's fault is retryable, so that a job waits or goes to
// another worker and is not lost. A refused API key is the operator's fault.
//
//	400, 422, 501, other 4xx    invalid_request, or context_length_exceeded
//	401, 403                    engine_unavailable, retryable
//	404                         engine_unavailable, retryable
//	408, 409, 425               engine_unavailable, retryable
//	413                         payload_too_large
//	429                         rate_limited, retryable
//	5xx, 3xx                    engine_unavailable, retryable
//	no answer, broken answer    engine_unavailable, retryable
//
// An engine that could not be reached, or refused with 429 or 503 before it began, is marked with
// [workers.ErrNotReceived]: such an attempt is nobody's failure.
//
// # Supervision
//
// An engine that runs already is an [Engine]. A [Server] is an Engine whose `vllm serve` it starts
// itself and keeps running: [Server.Run] starts the process, waits until it is ready, watches it,
// and starts it again however it ends. What it believes and what it does not:
//
//   - A flag that the installed version does not know ends vLLM before it listens. So the Server asks
//     `vllm --version` and `vllm serve --help=all` first, leaves out what is not there and says so,
//     each flag once. What no help can be read for is decided by a table of versions. A process that
//     refuses its flags all the same (exit code 2 before it was ever ready) ends Run.
//   - The process counts as ready when it answers /health, lists its model, and has generated one
//     token, within StartTimeout. Until then [Server.Health] fails with the newest line of its log.
//     A port that somebody else holds is never taken for a ready engine: nothing is started meanwhile.
//   - A 200 of /health proves nothing. While requests run or wait in the engine, or are under way
//     through this Server, tokens must come; where none has for StallTimeout, a canary decides.
//   - Every end that was not asked for is a crash, whatever its code: vLLM exits with 0 when its engine
//     core dies. Restarts wait longer each time, up to MaxRestartDelay; an engine that was ready for as
//     long as that begins anew.
//   - The death of vLLM's first process does not end the others, which go on holding the GPU. The
//     process therefore gets a session and a process group of its own. To end it is to send SIGTERM
//     once, to the first process alone, and then SIGKILL to all: the group, the session, what was
//     seen to descend from it, and what is in its cgroup. The next start waits until all are gone.
//   - If this process is killed, the kernel kills vLLM's first process, and a guard, a shell that waits
//     for its input to end, kills the rest. What had left the group by then survives, unless there is
//     a cgroup.
//
// The whole program is not made a child subreaper: that would be a setting of the process that
// embeds a Server, and orphans of anybody else would become its zombies. Members are found by session, group, descent and cgroup instead.
//
// # Limits
//
// With a delegated cgroup v2 folder the kernel enforces MemoryLimit and CPUs: the process is born
// in a child folder of it. The folder must be writable, hold no processes itself, and offer the
// memory and cpu controllers; with systemd that is Delegate=yes with DelegateSubgroup=. Otherwise the memory of all
// members is read from /proc each second, resident pages first, and proportional ones where those
// exceed the limit; over the limit is logged and counted, and after MemoryGrace the engine is
// restarted. CPUs is then only the default of OMP_NUM_THREADS.
//
// Outside Linux there is no /proc: members are known by their process group only (on Windows not at
// all), memory and CPU time are not read, and MemoryLimit has no effect; this is said once, in the log.
package vllm
