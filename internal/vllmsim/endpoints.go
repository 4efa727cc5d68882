package vllmsim

import (
	"net/http"
	"slices"
)

// version is what /version says; the suffix tells it from a real engine.
const version = "0.32.0+sim"

func (s *Sim) models(w http.ResponseWriter, _ *http.Request) {
	model := map[string]any{"id": s.cfg.Model, "object": "model", "created": s.started.Unix(), "owned_by": "vllm"}
	if !s.cfg.NoExtras {
		model["root"], model["parent"], model["max_model_len"] = s.cfg.Model, nil, s.cfg.MaxModelLen
		model["permission"] = []any{map[string]any{
			"id": "modelperm-sim", "object": "model_permission", "created": s.started.Unix(), "organization": "*", "group": nil,
			"allow_create_engine": false, "allow_sampling": true, "allow_logprobs": true, "allow_search_indices": false,
			"allow_view": true, "allow_fine_tuning": false, "is_blocking": false,
		}}
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": []any{model}})
}

func (s *Sim) healthy(http.ResponseWriter, *http.Request) {}

func (s *Sim) version(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"version": version})
}

func (s *Sim) serverLoad(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]int64{"server_load": s.load.Load()})
}

func (s *Sim) scrape(w http.ResponseWriter, r *http.Request) { s.metrics.handler.ServeHTTP(w, r) }

// wireTokenize is the body of /tokenize: a prompt or messages.
type wireTokenize struct {
	Model                string    `json:"model"`
	Prompt               *string   `json:"prompt"`
	Messages             []message `json:"messages"`
	AddSpecialTokens     *bool     `json:"add_special_tokens"`
	AddGenerationPrompt  *bool     `json:"add_generation_prompt"`
	ContinueFinalMessage bool      `json:"continue_final_message"`
	ReturnTokenStrings   bool      `json:"return_token_strs"`
}

func (s *Sim) tokenize(w http.ResponseWriter, r *http.Request) {
	var body wireTokenize
	if err := s.decode(w, r, &body); err != nil {
		writeError(w, asAPIError(err))
		return
	}
	ids, err := body.tokens(s.cfg.Model)
	if err != nil {
		writeError(w, asAPIError(err))
		return
	}
	answer := map[string]any{"count": len(ids), "max_model_len": s.cfg.MaxModelLen, "tokens": ids, "token_strs": nil}
	if body.ReturnTokenStrings {
		strs := make([]string, len(ids))
		for i, id := range ids {
			strs[i] = Detokenize([]int{id})
		}
		answer["token_strs"] = strs
	}
	writeJSON(w, http.StatusOK, answer)
}

func (t *wireTokenize) tokens(model string) ([]int, error) {
	if err := checkModel(t.Model, model); err != nil {
		return nil, err
	}
	if t.Prompt == nil && t.Messages == nil {
		return nil, invalid("body.prompt", "missing", "Field required")
	}
	if t.Prompt == nil {
		return renderChat(model, t.Messages, deref(t.AddGenerationPrompt, true), t.ContinueFinalMessage, deref(t.AddSpecialTokens, false))
	}
	ids := []int{}
	if deref(t.AddSpecialTokens, true) {
		ids = append(ids, beginText)
	}
	return appendTokens(ids, *t.Prompt), nil
}

func (s *Sim) detokenize(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Model  string `json:"model"`
		Tokens []int  `json:"tokens"`
	}
	err := s.decode(w, r, &body)
	if err == nil {
		err = checkModel(body.Model, s.cfg.Model)
	}
	if err == nil && body.Tokens == nil {
		err = invalid("body.tokens", "missing", "Field required")
	}
	if err != nil {
		writeError(w, asAPIError(err))
		return
	}
	// What is out of the vocabulary has no text.
	known := slices.DeleteFunc(body.Tokens, func(id int) bool { return id < 0 || id >= vocab().size() })
	writeJSON(w, http.StatusOK, map[string]string{"prompt": Detokenize(known)})
}

func (s *Sim) faultsEndpoint(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodDelete:
		s.ClearFaults()
	case http.MethodPost:
		var f Fault
		err := s.decode(w, r, &f)
		if err == nil {
			err = s.InjectFault(f)
		}
		if err != nil {
			writeError(w, asAPIError(err))
			return
		}
	default:
		s.mu.Lock()
		list := make([]Fault, 0, len(s.faults))
		for _, a := range s.faults {
			f := a.Fault
			f.Count = a.left
			list = append(list, f)
		}
		s.mu.Unlock()
		writeJSON(w, http.StatusOK, list)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Sim) statsEndpoint(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, s.Stats())
}

func (s *Sim) promptsEndpoint(w http.ResponseWriter, _ *http.Request) {
	if !s.cfg.LogPrompts {
		writeError(w, notFound("", "Prompts are not kept."))
		return
	}
	writeJSON(w, http.StatusOK, map[string][]string{"prompts": s.Prompts()})
}
