package vllmsim

import "net/http"

// Completion is one choice of an answer.
type Completion struct {
	Index          int
	Text           string
	TokenIDs       []int
	PromptTokenIDs []int
	// FinishReason is "stop", "length" or "abort".
	FinishReason string
	// StopReason is the stop string, the id (an int) of the stop token, or nil.
	StopReason any
}

type usage struct {
	PromptTokens            int  `json:"prompt_tokens"`
	TotalTokens             int  `json:"total_tokens"`
	CompletionTokens        int  `json:"completion_tokens"`
	PromptTokensDetails     *int `json:"prompt_tokens_details"`
	CompletionTokensDetails *int `json:"completion_tokens_details"`
}

// reply answers a request in one piece.
func (s *Sim) reply(w http.ResponseWriter, r *http.Request, g *group, created int64) {
	select {
	case <-g.notify:
	case <-r.Context().Done():
		return
	}
	out, _ := s.drain(g, nil)
	list, fault := collect(g, out)
	switch fault {
	case "":
		writeJSON(w, http.StatusOK, s.cfg.body(g, list, created))
	case EOF:
		panic(http.ErrAbortHandler)
	default:
		writeError(w, internalError())
	}
}

// collect makes the choices of g from all of its emissions.
func collect(g *group, out []emission) ([]Completion, FaultKind) {
	list := make([]Completion, len(g.sequences))
	texts := make([]*output, len(g.sequences))
	for i, q := range g.sequences {
		list[i] = Completion{Index: i, PromptTokenIDs: q.prompt}
		texts[i] = newOutput(q.prompt, q.gen.p)
		if g.req.echoText() {
			list[i].Text = string(shown(q.prompt, q.gen.p))
		}
	}
	for _, e := range out {
		if e.end != nil && e.end.fault != "" {
			return nil, e.end.fault
		}
		c := &list[e.choice]
		if e.token >= 0 {
			texts[e.choice].push(int(e.token), e.end)
			c.TokenIDs = append(c.TokenIDs, int(e.token))
		}
		if e.end != nil {
			c.Text += string(texts[e.choice].release(nil, e.end))
			c.FinishReason, c.StopReason = e.end.reason, e.end.stop
		}
	}
	return list, ""
}

// fingerprint is what system_fingerprint says: the version, and in vLLM a digest of the configuration.
const fingerprint = "vllm-" + version

// body is the answer with every field that vLLM writes, null ones too.
func (c *Config) body(g *group, list []Completion, created int64) map[string]any {
	r := g.req
	u := usage{PromptTokens: r.promptTokens()}
	choices := make([]map[string]any, len(list))
	for i, done := range list {
		u.CompletionTokens += len(done.TokenIDs)
		choice := map[string]any{"index": i, "logprobs": nil, "finish_reason": done.FinishReason}
		if r.chat {
			message := map[string]any{"role": r.role, "content": done.Text, "refusal": nil}
			if !c.NoExtras {
				for _, field := range []string{"annotations", "audio", "function_call", "reasoning"} {
					message[field] = nil
				}
			}
			choice["message"] = message
		} else {
			choice["text"] = done.Text
		}
		if !c.NoExtras {
			choice["stop_reason"], choice["routed_experts"] = done.StopReason, nil
		}
		if !c.NoTokenIDs {
			choice["token_ids"] = idsOrNull(r, done.TokenIDs)
			if !r.chat {
				choice["prompt_token_ids"], choice["prompt_logprobs"] = idsOrNull(r, done.PromptTokenIDs), nil
			}
		}
		choices[i] = choice
	}
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
	object := "text_completion"
	if r.chat {
		object = "chat.completion"
	}
	body := map[string]any{"id": g.id, "object": object, "created": created, "model": c.Model, "choices": choices, "usage": u, "service_tier": nil, "system_fingerprint": nil}
	if !c.NoExtras {
		body["system_fingerprint"] = fingerprint
		for _, field := range []string{"kv_transfer_params", "ec_transfer_params", "metrics"} {
			body[field] = nil
		}
		if r.chat {
			body["prompt_text"] = nil
		}
	}
	if r.chat && !c.NoTokenIDs {
		body["prompt_token_ids"], body["prompt_logprobs"] = idsOrNull(r, r.prompts[0]), nil
	}
	return body
}

func idsOrNull(r *request, ids []int) any {
	if !r.tokenIDs {
		return nil
	}
	return ids
}
