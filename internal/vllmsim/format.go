package vllmsim

import "strings"

// marker is what a chat template puts around messages: a token that no text can spell, so that a
// message cannot forge a turn, and text after it.
type marker struct {
	token []int // one or none
	text  string
}

// format is a chat template.
type format struct {
	// around is what stands before and after a message of a role.
	around func(role string) (before, after marker)
	// reply begins the reply.
	reply marker
	// alternates is set if the template raises an error unless user and assistant take turns.
	alternates bool
}

// formatOf returns the template of a model by its name: that of the family which the name holds, ChatML
// otherwise. They are the families' own but for two things: each begins with a beginning-of-text
// token, and Phi-3's markers of roles are one token and text.
func formatOf(model string) format {
	name := strings.ToLower(model)
	switch {
	case strings.Contains(name, "openchat"):
		return openchat
	case strings.Contains(name, "mixtral"), strings.Contains(name, "mistral"):
		return instruct
	case strings.Contains(name, "phi"):
		return phi
	default:
		return chatML
	}
}

var (
	chatML = format{
		around: func(role string) (before, after marker) {
			return marker{[]int{turnStart}, role + "\n"}, marker{[]int{turnEnd}, "\n"}
		},
		reply: marker{[]int{turnStart}, "assistant\n"},
	}
	openchat = format{
		around: func(role string) (before, after marker) {
			return marker{nil, "GPT4 Correct " + strings.ToUpper(role[:1]) + role[1:] + ": "}, marker{[]int{endOfTurn}, ""}
		},
		reply: marker{nil, "GPT4 Correct Assistant:"},
	}
	instruct = format{
		around: func(role string) (before, after marker) {
			if role == "user" {
				return marker{nil, " [INST] "}, marker{nil, " [/INST]"}
			}
			return marker{nil, " "}, marker{[]int{endText}, ""}
		},
		alternates: true,
	}
	phi = format{
		around: func(role string) (before, after marker) {
			return marker{[]int{roleStart}, role + "|>\n"}, marker{[]int{messageEnd}, "\n"}
		},
		reply: marker{[]int{roleStart}, "assistant|>\n"},
	}
)
