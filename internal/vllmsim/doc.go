// Package vllmsim is a vLLM that needs no GPU: it speaks vLLM's HTTP API with set latencies, writes
// readable text that depends on nothing but the model, the prompt's tokens, the seed and the
// choice, and fails in vLLM's ways on demand.
//
// # Text
//
// The next token is a function of all tokens before it, so a reply that was cut off can be continued
// with prompt plus produced tokens and comes out as if it had not been cut: [Expected] says what a request is
// answered with, and a test compares byte for byte. Some words end in a character that takes several tokens; as
// in vLLM the tokens are reported at once and the character with the last of them. A
// continuation that starts inside a character yields the whole of it. Text that waited for a stop
// string, on the other hand, is lost with the request that held it back.
//
// Chats are rendered as the model's family does, which is taken from its name: ChatML, OpenChat's,
// Mixtral's or Phi-3's. The last prompts can be looked at (/sim/prompts).
//
// # Scheduling
//
// One loop makes steps, each one token of every running sequence, like vLLM's engine. Up to
// MaxNumSeqs run, as far as the KV cache holds them, and the others wait their turn. A client that goes away frees its slots at once,
// whether its sequences wait, prefill or decode; [Stats] has the time of it.
//
// # Differences from vLLM
//
// logprobs are always null; tools, response_format and sampling parameters such as temperature do
// not change the text; echo works for completions alone; a slow reader gets every chunk, where vLLM
// merges those that have piled up; nothing is preempted; the messages of bodies that do not validate
// name one fault, and in other words. What is under way when [Sim.Run] is asked to stop ends with
// finish_reason "abort"; vLLM 0.32 may as well say nothing more until its client hangs up.
//
// Everything else about answers is compared with vLLM's own in loadtest/realvllm.
package vllmsim
