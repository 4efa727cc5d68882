//go:build vllm && linux

package realvllm_test

// model is one of the models that hxp is configured for by default.
type model struct {
	name string
	// chat is what the model card makes of the messages that testChat sends.
	chat string
	// noSystem is set where the template refuses a message of the system.
	noSystem bool
	// ends are the tokens that end a reply, with what vLLM says of them: the first is the tokenizer's own.
	ends []string
	// flags are besides those of every engine.
	flags []string
	// graceful is set if in-flight requests may finish after SIGTERM.
	graceful bool
}

// Two of them schedule by priority, two let requests finish when they are stopped.
var all = []model{
	{
		name: "mixtral", noSystem: true, ends: []string{"</s>"},
		chat:  "<s> [INST] U1 [/INST] A1</s> [INST] U2 [/INST]",
		flags: []string{"--scheduling-policy", "priority"},
	},
	{
		name: "hermes", ends: []string{"<|im_end|>"},
		chat:  "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n",
		flags: []string{"--shutdown-timeout", "60"}, graceful: true,
	},
	{
		name: "openchat", ends: []string{"<|end_of_turn|>"},
		chat: "<s>GPT4 Correct System: S<|end_of_turn|>GPT4 Correct User: U1<|end_of_turn|>GPT4 Correct Assistant: A1<|end_of_turn|>" +
			"GPT4 Correct User: U2<|end_of_turn|>GPT4 Correct Assistant:",
		flags: []string{"--scheduling-policy", "priority", "--shutdown-timeout", "60"}, graceful: true,
	},
	{
		name: "phi3", ends: []string{"<|endoftext|>", "<|end|>"},
		chat: "<s><|system|>\nS<|end|>\n<|user|>\nU1<|end|>\n<|assistant|>\nA1<|end|>\n<|user|>\nU2<|end|>\n<|assistant|>\n",
	},
}

func (m model) priority() bool {
	for i, f := range m.flags {
		if f == "--scheduling-policy" {
			return m.flags[i+1] == "priority"
		}
	}
	return false
}
