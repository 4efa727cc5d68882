//go:build chaos && linux

package chaos_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"
)

var (
	seed     = flag.Uint64("seed", 1, "seed of prompts and of the choice of what is killed when")
	long     = flag.Bool("long", false, "run the long form")
	duration = flag.Duration("duration", 10*time.Minute, "about how long the long form takes")
)

// Programs under test; TestMain builds them.
var hxpBinary, natsBinary string

func TestMain(m *testing.M) {
	flag.Parse()
	logging.Disable() // go-redis writes what calls return as errors
	os.Exit(built(m))
}

func built(m *testing.M) int {
	dir, err := os.MkdirTemp("", "hxp-chaos-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	hxpBinary, natsBinary = filepath.Join(dir, "hxp"), filepath.Join(dir, "nats-server")
	for binary, pkg := range map[string]string{
		hxpBinary:  "github.com/hxp-enterprise/hxp/cmd/hxp",
		natsBinary: "github.com/nats-io/nats-server/v2",
	} {
		if out, err := exec.Command("go", "build", "-o", binary, pkg).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", pkg, err, out)
			return 1
		}
	}
	form := "short"
	if *long {
		form = fmt.Sprintf("long, about %s", *duration)
	}
	fmt.Printf("chaos: %s form, seed %d\n", form, *seed)
	return m.Run()
}

// size returns what a scenario is to have in the form that is run.
func size[T any](short, big T) T {
	if *long {
		return big
	}
	return short
}
