// Package app is the configuration of hxp and the wiring of its roles: [Up] runs every part in one
// process, [Worker] and [Sim] run one part each, and [Connect] is how the client commands reach the
// queue. Nothing here decides anything about a job.
//
// # Configuration
//
// [Load] lays four layers over one another: the built-in defaults (defaults.yaml, which holds the
// four models as data), the YAML files, the environment (HXP_ and the path of a setting in upper
// case with underscores, HXP_WORKER_SLOTS for worker.slots) and the flags. Every fault of all
// layers is reported at once, with path, value, bound and where it was written; every value knows
// which layer it came from ([Config.Settings]). A model takes what its block does not say from the
// general blocks: bounds of requests, engine arguments, timeouts and slots.
//
// # Reloading
//
// [Up] and [Worker] watch the files, and reload on SIGHUP. What can change while jobs run does so
// from the next job on: bounds, abilities, timeouts, attempts, shares, the log and the keys of engines that
// run elsewhere. The rest is named and waits for a restart. A configuration with a fault changes nothing;
// /readyz and hxp_config_last_reload_success say so until the next good one.
//
// # Conversations
//
// [Up] keeps them in a Redis of its own at redis.listen, where [OpenConversations] looks for one by default;
// with redis.url, and in [Worker], in that one. A Redis that is away keeps no role from starting.
//
// [Sessions] is what the session commands do with the conversations in Redis. [Chat] goes on with one of
// them through the queue: a job a turn, with the new message alone, that answers the turn which its user
// has seen last. It needs Redis for nothing but what a person asks of a session as a whole.
//
// # Engines
//
// A model's engine is a URL, or the process's own: started by vllm serve or simulated. An engine
// of the process's own starts before the workers and stops after them.
//
// A simulated engine is as fast as the command says, or as the profile that sim.profile names: figures of real
// GPUs with their sources, in profiles.yaml.
//
// # Load tests
//
// [Loadtest] makes the targets of package loadtest from the configuration, on a running queue or on an [Up] of its own
// in a temporary folder, and leaves the results in another.
//
// # Shutdown
//
// What was started first stops last: workers hand back or finish what they run, then the metrics
// listener, the simulated engines, Redis and NATS stop.
package app
