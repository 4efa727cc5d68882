package batch

import (
	"encoding/json"
	"hash/maphash"
	"slices"

	"github.com/hxp-enterprise/hxp/schemas"
)

// promptPrefix is how much of a prompt without a system message is looked at for what lines share.
const promptPrefix = 256

// prefix hashes the part of a prompt that lines are likely to share: the leading system messages of a chat,
// or the first bytes of a prompt. Two lines with one prefix hit the same blocks of the engine's cache.
func (c *checker) prefix(x *item, prompt json.RawMessage) uint64 {
	var h maphash.Hash
	h.SetSeed(c.seed)
	_, _ = h.WriteString(x.model)
	if x.endpoint == schemas.Completions {
		_, _ = h.Write(prompt[:min(len(prompt), promptPrefix)])
		return h.Sum64()
	}
	var messages []struct {
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
	}
	if json.Unmarshal(prompt, &messages) != nil {
		return h.Sum64() // the worker says what is wrong with it
	}
	for _, m := range messages {
		if m.Role != "system" && m.Role != "developer" {
			break
		}
		_, _ = h.Write(m.Content)
	}
	return h.Sum64()
}

// together orders lines so that those with one prefix follow each other, the prefixes by their first line.
func together(items []*item) {
	first := make(map[uint64]int, len(items))
	for i, x := range items {
		if _, ok := first[x.prefix]; !ok {
			first[x.prefix] = i
		}
	}
	slices.SortStableFunc(items, func(a, b *item) int { return first[a.prefix] - first[b.prefix] })
}
