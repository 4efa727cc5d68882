package moderation_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/moderation"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	many := map[string]moderation.Expression{}
	for _, name := range words(257) {
		many[name] = moderation.Expression{Pattern: "x"}
	}
	for name, c := range map[string]struct {
		cfg  moderation.Config
		want []string
	}{
		"nothing":         {moderation.Config{}, nil},
		"stage":           {moderation.Config{Stages: []workers.Stage{"middle"}}, []string{`stages "middle" is neither input nor output`}},
		"hold-back":       {moderation.Config{HoldBack: 9 << 10}, []string{"hold_back 9216 is not between 1 and 8192"}},
		"phrase":          {moderation.Config{Rules: moderation.Rules{Phrases: []string{"a", " \u200b", strings.Repeat("x", 1025)}}}, []string{"phrases number 2 is empty", "phrases number 3 is 1025 bytes long; want at most 1024"}},
		"phrases":         {moderation.Config{Rules: moderation.Rules{Phrases: make([]string, 100_001)}}, []string{"phrases are 100001; want at most 100000"}},
		"expressions":     {moderation.Config{Rules: moderation.Rules{Expressions: many}}, []string{"expressions are 257; want at most 256"}},
		"long expression": {expression(moderation.Expression{Pattern: strings.Repeat("x", 5000)}), []string{"expressions.x.pattern is 5000 bytes long; want at most 4096"}},
		"big expression":  {expression(moderation.Expression{Pattern: `(\pL{100}){10}x{999}\pN{900}(abc|def){999}`}), []string{"expressions.x.pattern "}},
		"no expression":   {expression(moderation.Expression{Pattern: `[z-a]`}), []string{`expressions.x.pattern invalid character class range: "z-a"`}},
		"empty match":     {expression(moderation.Expression{Pattern: `\b|x?`}), []string{"expressions.x.pattern matches the empty text"}},
		"length":          {expression(moderation.Expression{Pattern: `x`, MaxBytes: -1}), []string{"expressions.x.max_bytes -1 is not between 1 and 8192"}},
		"replacement":     {expression(moderation.Expression{Pattern: `x`, Mask: true, Replacement: strings.Repeat("x", 65)}), []string{"expressions.x.replacement is 65 bytes long; want at most 64"}},
		"of a block":      {expression(moderation.Expression{Pattern: `x`, Replacement: "y"}), []string{"expressions.x.replacement is set for a match that blocks"}},
		"personal":        {moderation.Config{Rules: moderation.Rules{Personal: []string{"name"}}}, []string{`pii "name" is none of credit_card, email,`}},
		"no URL":          {endpoint(moderation.Endpoint{}), []string{"endpoint.url is empty"}},
		"URL":             {endpoint(moderation.Endpoint{URL: "nats://h"}), []string{"endpoint.url is not a URL"}},
		"credentials":     {endpoint(moderation.Endpoint{URL: "http://a:b@h"}), []string{"endpoint.url has credentials"}},
		"endpoint": {
			endpoint(moderation.Endpoint{URL: "http://h", Kind: "x", Timeout: 1, Retries: 11, Chunk: -1, Overlap: 1 << 20, Thresholds: map[string]float64{"hate": 2}}),
			[]string{"endpoint.kind ", "endpoint.model is empty", "endpoint.timeout 1ns", "endpoint.retries 11", "endpoint.chunk -1", "endpoint.overlap 1048576", "endpoint.thresholds.hate 2"},
		},
		"guard": {
			endpoint(moderation.Endpoint{URL: "http://h", Kind: moderation.KindGuard, Model: "g", Thresholds: map[string]float64{"hate": 1}}),
			[]string{"endpoint.thresholds are set for a guard model"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			faults := c.cfg.Check()
			for _, want := range c.want {
				found := false
				for _, f := range faults {
					found = found || strings.HasPrefix(f.String(), want)
				}
				if !found {
					t.Errorf("no %q in %.500v", want, faults)
				}
			}
			if (len(faults) == 0) != (len(c.want) == 0) {
				t.Errorf("faults = %v, want %q", faults, c.want)
			}
			_, err := moderation.New(map[string]moderation.Config{"p": c.cfg}, moderation.Assignment{})
			if (err == nil) != (len(c.want) == 0) || err != nil && !strings.Contains(err.Error(), "policy p: ") {
				t.Errorf("New = %.200v", err)
			}
		})
	}
}

func expression(x moderation.Expression) moderation.Config {
	return moderation.Config{Rules: moderation.Rules{Expressions: map[string]moderation.Expression{"x": x}}}
}

// TestMostSpecificPolicy of those that are named holds.
func TestMostSpecificPolicy(t *testing.T) {
	t.Parallel()
	configs := map[string]moderation.Config{"all": {}, "tenant": {Audit: true, FailOpen: true}, "model": {Stages: []workers.Stage{workers.StageInput}}, "both": {}}
	m, err := moderation.New(configs, moderation.Assignment{
		Default: "all", Tenants: map[string]string{"acme": "tenant", "quiet": moderation.Off},
		Models: map[string]moderation.ModelAssignment{"phi3": {Policy: "model", Tenants: map[string]string{"acme": "both", "free": moderation.Off}}, "hermes": {}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[[2]string]string{
		{"phi3", "acme"}: "both", {"phi3", "free"}: "", {"phi3", "other"}: "model", {"phi3", "quiet"}: "",
		{"hermes", "acme"}: "tenant", {"hermes", "quiet"}: "", {"hermes", "other"}: "all", {"mixtral", "other"}: "all",
	} {
		p := m.Policy(at[0], at[1])
		if p == nil && want == "" {
			continue
		}
		if p == nil || p.Name() != want || p.Audit() != (want == "tenant") || p.FailsOpen() != (want == "tenant") || p.Checks(workers.StageOutput) != (want != "model") {
			t.Errorf("%v: %v, want %q", at, p, want)
		}
	}
	none, err := moderation.New(nil, moderation.Assignment{})
	if err != nil || none.Policy("phi3", "acme") != nil {
		t.Errorf("without policies: %v", err)
	}
	bad := moderation.Assignment{Default: "a", Tenants: map[string]string{"t": "b"}, Models: map[string]moderation.ModelAssignment{"m": {Policy: "c", Tenants: map[string]string{"t": "d"}}}}
	want := [][2]string{{"default", "a"}, {"tenants.t", "b"}, {"models.m.policy", "c"}, {"models.m.tenants.t", "d"}}
	if diff := cmp.Diff(want, bad.Unknown(configs)); diff != "" {
		t.Errorf("unknown (-want +got):\n%s", diff)
	}
	_, err = moderation.New(map[string]moderation.Config{moderation.Off: {}}, bad)
	for _, w := range []string{"policy off: the name stands for no policy", `default: there is no policy "a"`, `models.m.tenants.t: there is no policy "d"`} {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("New = %v, want %q", err, w)
		}
	}
}

// TestDigests tell the same text apart from others, and nothing else.
func TestDigests(t *testing.T) {
	t.Parallel()
	cfg := moderation.Config{Rules: moderation.Rules{Personal: []string{"email"}}}
	digests := func(text string) (out []string) {
		p := policy(t, cfg)
		for _, r := range p.Input(t.Context(), []string{text, text}) {
			for _, f := range r.Findings {
				out = append(out, f.Digest)
			}
		}
		return out
	}
	first, second := digests("a@b.example"), digests("a@b.example")
	if len(first) != 2 || first[0] != first[1] || len(first[0]) != 16 || first[0] == second[0] {
		t.Errorf("digests %v and %v, want them the same under one key alone", first, second)
	}
}
