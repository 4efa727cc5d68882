package embedded_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hxp-enterprise/hxp/internal/embedded"
)

// redisDir makes the test binary a parent that starts a Redis there and waits to be killed.
const redisDir = "HXP_TEST_REDIS_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(redisDir); dir != "" {
		r, err := embedded.StartRedis(context.Background(), embedded.RedisConfig{Dir: dir})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(r.Addr())
		select {}
	}
	goleak.VerifyTestMain(m)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("after 10 s it is still not so that %s", what)
		}
	}
}
