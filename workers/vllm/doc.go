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
package vllm
