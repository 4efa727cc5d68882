// Package loadtest measures an inference tier under a load that is known beforehand, and says what
// the queue costs: the same requests go through hxp and straight to the engine, and what differs is hxp.
//
// A [Workload] is when requests come (its stages: an open loop with a rate, or a closed loop with a
// number of clients), what they ask (a [Dataset]) and for whom (a [Mix] of models, classes and tenants).
// It is a function of its seed: request n of a window is the same request, at the same moment, in every run.
// A [Target] is where they go: [NewQueue] is a producer of hxp over NATS, [NewDirect] an
// OpenAI-compatible URL. [Run] sends them and returns the [Summary]; package loadtest/report draws it.
//
//	summary, err := loadtest.Run(ctx, loadtest.Workload{
//		Dataset: loadtest.Random{Input: 64, Output: 64},
//		Mix:     loadtest.Mix{Models: []loadtest.Weighted{{Name: "phi3"}}},
//		Stages:  []loadtest.Stage{{Rate: 500, Duration: 10 * time.Second}},
//	}, []loadtest.Target{direct, queued}, loadtest.Options{})
//
// # Comparing
//
// Two targets are measured in short windows, one after the other, each with the whole load and the same requests,
// for several rounds. The order turns round from pair to pair (direct, queue, queue, direct), so that a machine that
// grows slower, or an engine whose prefix cache is warm for whoever comes second, favours neither. Windows, and not
// request by request: requests of both kinds in one engine at the same time would take each other's slots
// and cores, so that neither throughput nor CPU could be told apart, and each would be measured at a load
// that nobody asked for. Where both go to one engine, a worker that bounds its jobs by the engine's load sees what is left of the
// direct window, and begins the next one carefully: give each a replica of its own, as hxp loadtest --up does.
// What is compared are the windows of one pair; of the rounds the summary has the median, the lowest and the highest.
//
// # Open loop
//
// A request of an open loop has a time at which it is due, and its latencies count from there, not from when it
// was sent. A generator that is held up, by a bound on what may be in flight or by a machine that is too slow, makes
// requests late and not fast (what is known as coordinated omission); lag says by how much. In a closed
// loop a request is due when its client is free.
//
// # Metrics
//
// The names and definitions are those of vllm bench serve. ttft is from the due time to the first chunk with output; a
// chunk that only names the role is no output. itl is the time between two chunks with output, so a chunk of several tokens
// is one sample. e2el is to the last chunk with output, and for an answer that is not streamed to the
// answer. tpot is (e2el - ttft) / (output tokens - 1), of requests with at least two tokens. Tokens are those that the
// engine's usage counts. Beside them: accept, from sending a job to the queue's word that it is stored;
// queue_wait, from there to a worker's start, by the worker's clock; delivery, from the worker's making of an
// event to its arrival, which needs both on one clock; end, to the terminal event or the end of the body; and lag.
//
// CPU is that of the whole process, generator included: in a run where broker, workers and simulated
// engines share it, hxp's own share is queue less direct.
//
// # Lost, twice, gaps
//
// Nothing is taken on trust. A request through the queue is lost if its job was accepted and there is neither an end nor a
// Result of it when its time is over. It is doubled if anything comes after its end, and has a gap if its events skip a number
// or its chunks hold another number of tokens than its usage says. In a comparison replies are compared as well;
// with a real engine they may differ by nature.
//
// # Memory
//
// Latencies go to histograms (HdrHistogram, three digits) and requests to the log as they end, so that a run of a
// day needs no more than one of a minute, apart from eight bytes a request of a comparison for its reply.
package loadtest
