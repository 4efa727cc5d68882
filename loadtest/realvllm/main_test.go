//go:build vllm && linux

package realvllm_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var reportFile = flag.String("report", "", "write the outcome to this `file`, if every test runs")

// What TestMain makes and .ci/test-vllm names.
var (
	hxpBinary, natsBinary string
	venv, models          = os.Getenv("HXP_VLLM_VENV"), os.Getenv("HXP_VLLM_MODELS")
	results               outcome
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(built(m))
}

func built(m *testing.M) int {
	complain := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if venv == "" || models == "" {
		return complain(fmt.Errorf("HXP_VLLM_VENV is %q and HXP_VLLM_MODELS %q; run .ci/test-vllm, which sets both", venv, models))
	}
	dir, err := os.MkdirTemp("", "hxp-vllm-")
	if err != nil {
		return complain(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	hxpBinary, natsBinary = filepath.Join(dir, "hxp"), filepath.Join(dir, "nats-server")
	for binary, pkg := range map[string]string{
		hxpBinary:  "github.com/hxp-enterprise/hxp/cmd/hxp",
		natsBinary: "github.com/nats-io/nats-server/v2",
	} {
		if out, err := exec.Command("go", "build", "-o", binary, pkg).CombinedOutput(); err != nil {
			return complain(fmt.Errorf("build %s: %w\n%s", pkg, err, out))
		}
	}
	about, err := versions() // before the report changes the working tree
	if err != nil {
		return complain(err)
	}
	code := m.Run()
	all := flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.skip").Value.String() == ""
	if *reportFile == "" || !all {
		return code
	}
	if err := results.write(*reportFile, about); err != nil {
		return complain(err)
	}
	return code
}
