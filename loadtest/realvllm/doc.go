// Package realvllm runs hxp against real vLLM processes: the four architectures that hxp is made for,
// tiny and with random weights, on the CPU. It holds tests only.
//
// `make test-vllm` runs them and writes docs/verification.md. They need the build tag vllm, since they
// need a Python environment of 6 GB and minutes of CPU time, and Linux.
//
// What a model says is nonsense, and the same nonsense every time: greedy sampling in 32-bit floats,
// so that a reply that was interrupted can be compared byte for byte with an undisturbed one.
//
// # The simulator
//
// The same requests are sent to internal/vllmsim, and what both answer is compared: statuses, the shape of
// bodies and of streamed frames, finish reasons, names of metrics. What the simulator promises
// elsewhere is therefore what vLLM does.
package realvllm
