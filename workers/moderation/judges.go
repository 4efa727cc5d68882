package moderation

import (
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// moderations asks OpenAI's /v1/moderations.
type moderations struct{ client }

type moderationsRequest struct {
	Model string `json:"model"`
	Input string `json:"input"`
}

type moderationsReply struct {
	Results []struct {
		Flagged    bool               `json:"flagged"`
		Categories map[string]bool    `json:"categories"`
		Scores     map[string]float64 `json:"category_scores"`
	} `json:"results"`
}

// flaggedOnly is the category of a text that is flagged and in no category.
const flaggedOnly = "flagged"

func (m *moderations) judge(ctx context.Context, q question) ([]string, error) {
	var reply moderationsReply
	if err := m.ask(ctx, moderationsRequest{m.Model, q.text}, &reply); err != nil {
		return nil, err
	}
	if len(reply.Results) == 0 {
		return nil, errors.New("moderation endpoint: the answer has no results")
	}
	var found []string
	for _, r := range reply.Results {
		all := maps.Clone(r.Categories)
		if all == nil {
			all = map[string]bool{}
		}
		for category, least := range m.Thresholds {
			if score, ok := r.Scores[category]; ok {
				all[category] = score >= least
			}
		}
		hit := false
		for _, category := range sortedKeys(all) {
			if all[category] {
				hit = true
				found = append(found, m.named(category))
			}
		}
		// A flag for what a threshold allows does not count.
		if r.Flagged && !hit && len(r.Categories) == 0 {
			found = append(found, m.named(flaggedOnly))
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// guard asks a guard model that is served as a chat model, by vLLM for one.
type guard struct{ client }

// guardTokens is more than the longest answer of Llama Guard takes.
const guardTokens = 20

// maxAsked bounds what a reply is shown with of its prompt.
const maxAsked = 4 << 10

type guardRequest struct {
	Model       string         `json:"model"`
	Messages    []guardMessage `json:"messages"`
	Temperature float64        `json:"temperature"`
	MaxTokens   int            `json:"max_tokens"`
}

type guardMessage struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type guardReply struct {
	Choices []struct {
		Message struct {
			Content string `json:"content"`
		} `json:"message"`
	} `json:"choices"`
}

func (g *guard) judge(ctx context.Context, q question) ([]string, error) {
	messages := []guardMessage{{"user", q.text}}
	if q.output { // its template wants the user first
		asked := q.prompt[pieceStart([]byte(q.prompt), len(q.prompt)-maxAsked):]
		messages = []guardMessage{{"user", asked}, {"assistant", q.text}}
	}
	var reply guardReply
	if err := g.ask(ctx, guardRequest{Model: g.Model, Messages: messages, MaxTokens: guardTokens}, &reply); err != nil {
		return nil, err
	}
	if len(reply.Choices) == 0 {
		return nil, errors.New("moderation endpoint: the answer has no choices")
	}
	said, codes, _ := strings.Cut(strings.TrimSpace(reply.Choices[0].Message.Content), "\n")
	switch strings.ToLower(strings.TrimSpace(said)) {
	case "safe":
		return nil, nil
	case "unsafe":
	default:
		return nil, errors.New("moderation endpoint: the guard model said neither safe nor unsafe")
	}
	var found []string
	for code := range strings.FieldsFuncSeq(codes, func(r rune) bool { return r == ',' || space(r) }) {
		if _, known := g.Categories[code]; known || guardCode.MatchString(code) {
			found = append(found, g.named(code))
		}
	}
	if len(found) == 0 {
		found = []string{g.named("unsafe")}
	}
	return found, nil
}

// guardCode is what counts as a category without a name: a model may say anything, and categories are told.
var guardCode = regexp.MustCompile(`^[A-Z]{1,2}[0-9]{1,2}$`)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
