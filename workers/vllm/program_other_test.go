//go:build !linux

package vllm_test

// Supervision is tested on Linux, where all of it exists.
const roleVar = "TEST_VLLM_ROLE"

func play(string, []string) int { return 2 }
