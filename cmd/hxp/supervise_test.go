package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWorkerStartsItsEngine has the worker start vllm serve, which is a program that simulates.
func TestWorkerStartsItsEngine(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(l.Addr().String(), ":")
	l.Close()
	dir := t.TempDir()
	argv, program := filepath.Join(dir, "argv"), filepath.Join(dir, "vllm")
	script := fmt.Sprintf(`#!/bin/sh
case "$*" in
--version) echo 0.31.0 ;;
*--help*) printf '  --%%s X\n' host port max-model-len served-model-name kv-cache-dtype tool-call-parser enable-auto-tool-choice ;;
*) echo "$@" > %s; exec env %s=1 %s sim hermes --listen 127.0.0.1:%s --itl 0 ;;
esac
`, argv, asProcess, self, port)
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	broker := start(t, "--models", "phi3")
	w := begin(t, "worker", "--model", "hermes", "--engine", "vllm", "--server", broker.NATS, "--listen", "127.0.0.1:0",
		"--set", "vllm_integration.server.command="+program, "--set", "ai_model_services.hermes.port="+port,
		"--set", "ai_model_services.hermes.engine_args.kv_cache_dtype=fp8", "--set", "ai_model_services.hermes.memory_limit_gb=0",
		"--set", "ai_model_services.hermes.cpu_cores=0", "--set", "queue.max_bytes=1MiB")
	broker.hxp(t, "run", "hermes", "Hello", "--max-tokens", "3").must(t, exitOK)
	got, err := os.ReadFile(argv)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"serve /opt/models/hermes-2 ", "--port=" + port, "--max-model-len=8192", "--kv-cache-dtype=fp8", "--enable-auto-tool-choice", "--tool-call-parser=hermes"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("the engine was started with %q, want %q in it", got, want)
		}
	}
	if code := w.stop(); code != exitOK {
		t.Errorf("the worker ended with %d: %s", code, w.stderr)
	}
	if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
		c.Close()
		t.Error("the engine has outlived its worker")
	}
}
