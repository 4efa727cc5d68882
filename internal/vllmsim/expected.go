package vllmsim

import "fmt"

// Generate returns up to n tokens that model writes after prompt, and whether the last of them ends the text. A seed of 0 is
// no seed. The tokens depend on nothing else, so for choice 0 and any m, what follows prompt plus
// the first m of them is the rest of them.
func Generate(model string, prompt []int, seed int64, index, n int) (ids []int, finished bool) {
	g := newGeneration(model, prompt, index, &sampling{maxTokens: n, seed: seed})
	for len(ids) < n {
		id, _ := g.next()
		ids = append(ids, id)
		if id == endText {
			return ids, true
		}
	}
	return ids, false
}

// Expected returns the choices that an undisturbed simulator with the default Config and this model
// would answer the body req of endpoint with. The request's own model is not looked at.
func Expected(model string, req []byte, endpoint string) ([]Completion, error) {
	cfg := Config{Model: model}.withDefaults()
	return cfg.expected(req, endpoint)
}

// Expected is the function of that name under the simulator's own Config.
func (s *Sim) Expected(req []byte, endpoint string) ([]Completion, error) {
	return s.cfg.expected(req, endpoint)
}

func (c *Config) expected(body []byte, endpoint string) ([]Completion, error) {
	if endpoint != pathChat && endpoint != pathCompletions {
		return nil, fmt.Errorf("endpoint %q is neither %s nor %s", endpoint, pathCompletions, pathChat)
	}
	r, err := c.parse(endpoint == pathChat, body, "")
	if err != nil {
		return nil, err
	}
	g := newGroup(c.Model, "", r)
	var out []emission
	for _, q := range g.sequences {
		for {
			id, end := q.gen.next()
			out = append(out, emission{choice: int32(q.choice), token: int32(id), end: end})
			if end != nil {
				break
			}
		}
	}
	list, _ := collect(g, out)
	return list, nil
}
