package app

import (
	"maps"
	"time"

	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/moderation"
)

// Moderation says what of requests and replies is checked. The most specific policy that is named holds: that
// of the model and the tenant, of the tenant, of the model, the default.
type Moderation struct {
	Policies map[string]ModerationPolicy `config:"policies"`
	// Default is a policy, or off.
	Default string                     `config:"default"`
	Tenants map[string]string          `config:"tenants"`
	Models  map[string]ModelModeration `config:"models"`
}

// ModelModeration is what holds for a model.
type ModelModeration struct {
	Policy  string            `config:"policy"`
	Tenants map[string]string `config:"tenants"`
}

// ModerationPolicy is one policy; see [moderation.Config].
type ModerationPolicy struct {
	// Stages are input, output or both.
	Stages []string `config:"stages"`
	// Mode is enforce or audit.
	Mode string `config:"mode"`
	// OnError is closed or open: whether what an endpoint could not check is blocked.
	OnError  string `config:"on_error"`
	HoldBack Bytes  `config:"hold_back"`

	Phrases []string `config:"phrases"`
	// PhrasesFile has more of them, one a line. Lines that begin with # are comments.
	PhrasesFile string                          `config:"phrases_file"`
	WholeWords  bool                            `config:"whole_words"`
	Expressions map[string]ModerationExpression `config:"expressions"`
	PII         []string                        `config:"pii"`
	Endpoint    ModerationEndpoint              `config:"endpoint"`
}

// ModerationExpression is one regular expression.
type ModerationExpression struct {
	Pattern  string `config:"pattern"`
	MaxBytes Bytes  `config:"max_bytes"`
	// Action is block or mask.
	Action      string `config:"action"`
	Replacement string `config:"replacement"`
}

// ModerationEndpoint is a service that judges texts. Without a URL there is none.
type ModerationEndpoint struct {
	URL string `config:"url,secret-url"`
	// Kind is openai or guard.
	Kind   string `config:"kind"`
	Model  string `config:"model"`
	APIKey string `config:"api_key,secret"`
	// APIKeyFile holds the key, in place of APIKey.
	APIKeyFile string             `config:"api_key_file"`
	Timeout    time.Duration      `config:"timeout"`
	Retries    int                `config:"retries"`
	Chunk      Bytes              `config:"chunk"`
	Overlap    Bytes              `config:"overlap"`
	Thresholds map[string]float64 `config:"thresholds"`
	Categories map[string]string  `config:"categories"`
}

const (
	moderationPath = "moderation"
	policiesPath   = moderationPath + ".policies"
	// maxPhrasesFile and maxKeyFile bound what is read.
	maxPhrasesFile = 16 << 20
	maxKeyFile     = 4 << 10
)

// ofEveryPolicy are the values of a policy that says nothing else, ofEveryEndpoint those of one that has an endpoint.
var (
	ofEveryPolicy   = map[string]any{"mode": "enforce", "on_error": "closed", "hold_back": int64(256), "stages": []any{"input", "output"}}
	ofEveryEndpoint = map[string]any{"endpoint.kind": "openai", "endpoint.timeout": "3s", "endpoint.retries": int64(2), "endpoint.chunk": int64(600), "endpoint.overlap": int64(200)}
)

// moderation fills what policies leave out.
func (l *loader) moderation() {
	policies, _ := l.k.Get(policiesPath).(map[string]any)
	for name, block := range policies {
		settings, ok := block.(map[string]any)
		if !ok {
			continue // which is reported later
		}
		defaults := maps.Clone(ofEveryPolicy)
		if e, ok := settings["endpoint"].(map[string]any); ok && e["url"] != nil {
			maps.Copy(defaults, ofEveryEndpoint)
		}
		expressions, _ := settings["expressions"].(map[string]any)
		for x := range expressions {
			defaults["expressions."+x+".action"] = "block"
		}
		for setting, v := range defaults {
			if path := policiesPath + "." + name + "." + setting; l.k.Get(path) == nil {
				l.extra[path] = v
			}
		}
	}
}

// config is how package moderation takes a policy, without what is in files.
func (p ModerationPolicy) config() moderation.Config {
	c := moderation.Config{
		Audit: p.Mode == "audit", FailOpen: p.OnError == "open", HoldBack: orNegative(int(p.HoldBack)),
		Rules: moderation.Rules{Phrases: p.Phrases, WholeWords: p.WholeWords, Personal: p.PII, Expressions: map[string]moderation.Expression{}},
	}
	for _, s := range p.Stages {
		c.Stages = append(c.Stages, workers.Stage(s))
	}
	for name, x := range p.Expressions {
		c.Rules.Expressions[name] = moderation.Expression{Pattern: x.Pattern, MaxBytes: int(x.MaxBytes), Mask: x.Action == "mask", Replacement: x.Replacement}
	}
	if e := p.Endpoint; e.URL != "" {
		c.Endpoint = &moderation.Endpoint{
			URL: e.URL, Kind: moderation.Kind(e.Kind), Model: e.Model, APIKey: e.APIKey, Timeout: e.Timeout, Retries: orNegative(e.Retries),
			Chunk: orNegative(int(e.Chunk)), Overlap: orNegative(int(e.Overlap)), Thresholds: e.Thresholds, Categories: e.Categories,
		}
	}
	return c
}

// orNegative is how package moderation says that something is to be nothing, where 0 asks for a default.
func orNegative(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

func (m Moderation) assignment() moderation.Assignment {
	a := moderation.Assignment{Default: m.Default, Tenants: m.Tenants, Models: map[string]moderation.ModelAssignment{}}
	for name, of := range m.Models {
		a.Models[name] = moderation.ModelAssignment{Policy: of.Policy, Tenants: of.Tenants}
	}
	return a
}
