package app_test

import (
	"strings"
	"testing"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
)

func TestEveryModelHasAProfileWithItsSource(t *testing.T) {
	t.Parallel()
	p, err := app.Profiles("h100")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range load(t, app.LoadOptions{}).ModelNames() {
		x := p[m]
		if x.TTFT <= 0 || x.Prefill <= 0 || x.ITL <= 0 || x.LoadFactor <= 0 {
			t.Errorf("%s: %+v", m, x)
		}
		if !strings.Contains(x.Source, "https://") && !strings.Contains(x.Source, "assumption") && !strings.Contains(x.Source, "as hermes") {
			t.Errorf("%s: source %q names neither a page nor an assumption", m, x.Source)
		}
	}
	if p["phi3"].ITL >= p["hermes"].ITL || p["hermes"].ITL >= p["mixtral"].ITL {
		t.Error("a smaller model is slower")
	}
	_, err = app.Profiles("abacus")
	wantError(t, err, nil, `"abacus" is no profile`, "h100")
}

func TestAProfileSetsThePaceOfSimulatedEngines(t *testing.T) {
	t.Parallel()
	slow := app.Timing{TTFT: 1, ITL: 2}
	for flag, want := range map[string]bool{"sim.profile=": false, "sim.profile=h100": true} {
		path, value, _ := strings.Cut(flag, "=")
		var flags []app.FlagValue
		if value != "" {
			flags = append(flags, app.FlagValue{Path: path, Value: value, Flag: "--set"})
		}
		file := file(t, "ai_model_services: {own: {port: 11500, model_path: /own}}\n")
		cfg := load(t, app.LoadOptions{Files: []string{file}, Flags: flags})
		p, err := app.Profiles("h100")
		if err != nil {
			t.Fatal(err)
		}
		if got := app.PaceOf(cfg, "phi3", slow); (got == p["phi3"]) != want {
			t.Errorf("%s: phi3 is %+v", flag, got)
		}
		if got := app.PaceOf(cfg, "own", slow); got.TTFT != 1 || got.ITL != 2 {
			t.Errorf("%s: a model without figures is %+v", flag, got)
		}
	}
	_, err := app.Load(app.LoadOptions{Flags: []app.FlagValue{{Path: "sim.profile", Value: "abacus", Flag: "--profile"}}})
	wantError(t, err, nil, "sim.profile", "abacus")
}
