package app_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/schemas"
)

const policies = `
moderation:
  default: off
  policies:
    strict:
      phrases: [Hello, good bye]
      phrases_file: %s
      whole_words: true
      pii: [email]
      expressions:
        key: {pattern: 'sk-\w+', action: mask, replacement: "[SECRET]", max_bytes: 64}
        stop: {pattern: 'st[ao]+p'}
    guarded:
      mode: audit
      on_error: open
      stages: output
      endpoint: {url: "https://mod.example/v1/moderations", api_key: very-secret, thresholds: {hate: 0.4}, categories: {hate: abuse}}
  tenants: {acme: strict, other: off}
  models: {phi3: {policy: guarded, tenants: {acme: off}}}
`

// phrasesFile is a block list of its own.
func phrasesFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "phrases.txt")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestModerationSettings(t *testing.T) {
	t.Parallel()
	list := phrasesFile(t, "# comment\n\nfile phrase\n")
	cfg := load(t, app.LoadOptions{
		Files:   []string{file(t, fmt.Sprintf(policies, list))},
		Environ: []string{"HXP_MODERATION_POLICIES_GUARDED_ENDPOINT_API_KEY=from-env", "HXP_MODERATION_POLICIES_STRICT_MODE=audit"},
		Flags: []app.FlagValue{
			{Path: "moderation.policies.strict.hold_back", Value: "1KiB", Flag: "--set"},
			{Path: "moderation.policies.late.pii", Value: "email phone", Flag: "--set"},
		},
	})
	got := map[string]any{}
	for _, s := range cfg.Settings() {
		if path, ok := strings.CutPrefix(s.Path, "moderation."); ok {
			got[path] = fmt.Sprint(s.Value)
		}
	}
	for path, want := range map[string]string{
		"default": "off", "tenants.acme": "strict", "models.phi3.policy": "guarded", "models.phi3.tenants.acme": "off",
		"policies.strict.mode": "audit", "policies.strict.on_error": "closed", "policies.strict.hold_back": "1KiB", "policies.strict.stages": "[input output]",
		"policies.strict.expressions.stop.action": "block", "policies.strict.expressions.key.replacement": "[SECRET]", "policies.strict.endpoint.timeout": "0s",
		"policies.guarded.endpoint.api_key": "********", "policies.guarded.endpoint.timeout": "3s", "policies.guarded.endpoint.chunk": "600",
		"policies.guarded.endpoint.thresholds.hate": "0.4", "policies.guarded.stages": "[output]", "policies.late.pii": "[email phone]", "policies.late.mode": "enforce",
	} {
		if got[path] != want {
			t.Errorf("%s = %v, want %s", path, got[path], want)
		}
	}
	if cfg.Moderation.Policies["guarded"].Endpoint.APIKey != "from-env" {
		t.Error("the key is not that of the environment")
	}
	if err := cfg.CheckFiles(); err != nil {
		t.Error(err)
	}
}

func TestEveryFaultOfModeration(t *testing.T) {
	t.Parallel()
	got := faultsOf(t, app.LoadOptions{Flags: []app.FlagValue{{Path: "moderation.policies.a.endpoint.api_key", Value: "x", Flag: "--set"}}}, `moderation:
  default: unknown
  tenants: {"a b": a}
  models: {falcon: {policy: a}, phi3: {tenants: {t: gone}}}
  policies:
    off: {}
    a:
      mode: block
      on_error: ajar
      stages: [input, middle]
      hold_back: 0
      phrases: ["", ok]
      pii: [email, shoe_size]
      expressions:
        broken: {pattern: "a(b"}
        empty: {pattern: "a*"}
        long: {pattern: x, max_bytes: 1MiB}
        odd: {pattern: x, action: drop, replacement: y}
    b:
      endpoint: {url: "ftp://x", kind: other, timeout: 1h, retries: 11, chunk: 0, overlap: 1MiB, thresholds: {hate: 2}}
    c:
      stages: []
      endpoint: {model: m, api_key: k}
    d:
      endpoint: {url: "http://u:p@h/", kind: guard, thresholds: {hate: 0.5}, api_key: k, api_key_file: f}
    e: text
    "f g": {}
`)
	want := []string{
		`moderation.default: "unknown" is not a policy; want off or one of a, b, c, d, e, f g (hxp.yaml:2)`,
		`moderation.models.falcon: the model "falcon" is not configured (hxp.yaml:4)`,
		`moderation.models.phi3.tenants.t: "gone" is not a policy; want off or one of a, b, c, d, e, f g (hxp.yaml:4)`,
	}
	for i, w := range want {
		if i >= len(got) || got[i] != w {
			t.Errorf("fault %d is not %s", i, w)
		}
	}
	for path, text := range map[string]string{
		"policies.a.endpoint.api_key":            "is a secret",
		"policies.a.expressions.broken.pattern":  `missing closing ): "a(b"`,
		"policies.a.expressions.empty.pattern":   "matches the empty text",
		"policies.a.expressions.long.max_bytes":  "1048576 is not between 1 and 8192",
		"policies.a.expressions.odd.action":      `"drop" is neither block nor mask`,
		"policies.a.expressions.odd.replacement": "is set for a match that blocks",
		"policies.a.hold_back":                   "0 is below 1",
		"policies.a.mode":                        `"block" is neither enforce nor audit`,
		"policies.a.on_error":                    `"ajar" is neither open nor closed`,
		"policies.a.phrases":                     "number 1 is empty",
		"policies.a.pii":                         `"shoe_size" is none of credit_card, email`,
		"policies.a.stages":                      `"middle" is neither input nor output`,
		"policies.b.endpoint.chunk":              "0 is below 1",
		"policies.b.endpoint.kind":               `"other" is neither openai nor guard`,
		"policies.b.endpoint.model":              "is empty",
		"policies.b.endpoint.overlap":            "1MiB is above 16KiB",
		"policies.b.endpoint.retries":            "11 is above 10",
		"policies.b.endpoint.thresholds.hate":    "2 is not between 0 and 1",
		"policies.b.endpoint.timeout":            "1h0m0s is above 1m0s",
		"policies.b.endpoint.url":                "is not a URL with http or https",
		"policies.c.endpoint.url":                "is empty",
		"policies.c.stages":                      "is empty",
		"policies.d.endpoint.api_key_file":       "is set beside api_key",
		"policies.d.endpoint.thresholds":         "a guard model, which gives no scores",
		"policies.d.endpoint.model":              "is empty; want the guard model",
		"policies.d.endpoint.url":                "has credentials",
		"policies.e":                             "want a block of settings",
		"policies.f g":                           "the policy's name",
		"policies.off":                           "stands for no policy",
		"tenants.a b":                            "the tenant's name",
	} {
		if !contains(got, "moderation."+path+": ", text) {
			t.Errorf("no fault of %s that says %q in:\n%s", path, text, strings.Join(got, "\n"))
		}
	}
	if len(got) != 33 {
		t.Errorf("%d faults, want 33:\n%s", len(got), strings.Join(got, "\n"))
	}
}

func contains(list []string, prefix, text string) bool {
	for _, s := range list {
		if strings.HasPrefix(s, prefix) && strings.Contains(s, text) {
			return true
		}
	}
	return false
}

func TestFilesOfModeration(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"missing":  {"-", "no such file"},
		"empty":    {"\n", "is empty"},
		"too long": {strings.Repeat("x", 17<<20), "is longer than 16777216 bytes"},
		"a phrase": {strings.Repeat("x", 2000), "phrases number 3 is 2000 bytes long; want at most 1024"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "none")
			if c.text != "-" {
				path = phrasesFile(t, c.text)
			}
			cfg := load(t, app.LoadOptions{Files: []string{file(t, fmt.Sprintf(policies, path))}})
			err := cfg.CheckFiles()
			wantError(t, err, nil, "moderation.policies.strict.phrases_file: ", c.want, ":7)")
			wantError(t, app.Worker(t.Context(), cfg, app.WorkerOptions{Model: "phi3", Stderr: &safe{}}), nil, c.want)
		})
	}
}

// TestModerationThatChanges is that of the file in force, and of the files that it names.
func TestModerationThatChanges(t *testing.T) {
	t.Parallel()
	keys := make(chan string, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		keys <- r.Header.Get("Authorization")
		_, _ = fmt.Fprint(w, `{"results":[{"flagged":true,"categories":{"hate":true}}]}`)
	}))
	t.Cleanup(srv.Close)
	list := phrasesFile(t, "# nothing yet\nnowhere\n")
	path := file(t, only+fmt.Sprintf(policies, list))
	r := up(t, load(t, app.LoadOptions{Files: []string{path}}), app.UpOptions{})
	c := dial(t, r.cfg)
	if err := ask(t, c, 8); err != nil {
		t.Fatal(err)
	}
	base := strings.Replace(only+fmt.Sprintf(policies, list), "models: {phi3: {policy: guarded, tenants: {acme: off}}}", "", 1)
	blocked := func(want string) {
		t.Helper()
		err := ask(t, c, 8)
		if err == nil || err.Code != schemas.CodeContentBlocked || err.Param != "messages" || !strings.Contains(err.Message, want) {
			t.Errorf("error = %v, want content_blocked by %s", err, want)
		}
	}
	replace(t, path, strings.Replace(base, "default: off", "default: strict", 1))
	r.says(t, "configuration: reloaded: moderation.default, moderation.models.phi3.policy, moderation.models.phi3.tenants.acme\n")
	blocked("policy strict: phrase")

	replace(t, path, strings.Replace(strings.Replace(base, "default: off", "default: strict", 1), "[Hello, good bye]", "[bye]", 1))
	r.says(t, "configuration: reloaded: moderation.policies.strict.phrases\n")
	if err := ask(t, c, 8); err != nil {
		t.Error(err)
	}
	replace(t, list, "hello\n")
	r.says(t, "configuration: reloaded: the files of moderation.policies\n")
	blocked("policy strict: phrase")

	key := phrasesFile(t, "k1\n")
	asking := only + "moderation: {default: asks, policies: {asks: {stages: [input], endpoint: {url: '" + srv.URL + "', api_key_file: " + key + "}}}}\n"
	replace(t, path, asking)
	r.says(t, "moderation.policies.asks")
	blocked("policy asks: hate")
	if got := <-keys; got != "Bearer k1" {
		t.Errorf("the endpoint got %q, want the key of the file", got)
	}
	replace(t, path, strings.Replace(asking, key, key+".none", 1))
	r.says(t, "not reloaded, the one before it stays in force: the configuration has 1 fault:\n  moderation.policies.asks.endpoint.api_key_file: open ")
	blocked("policy asks: hate")
	if strings.Contains(r.stderr.String(), "k1") {
		t.Error("stderr holds the key")
	}
	r.wantMetrics(t, `hxp_moderation_total{action="block",model="phi3",stage="input"} 4`, `hxp_moderation_total{action="audit",model="phi3",stage="output"} 0`)
}
