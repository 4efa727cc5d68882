package vllm_test

import (
	"strings"
	"testing"

	"github.com/hxp-enterprise/hxp/workers/vllm"
)

func TestNewChecksTheURL(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"http://127.0.0.1:8000":      "http://127.0.0.1:8000",
		"http://gpu-1:8000/v1":       "http://gpu-1:8000",
		"https://gpu.example/a/v1//": "https://gpu.example/a",
		"http://[::1]:8000/":         "http://[::1]:8000",
		"http://user:pw@gpu-1":       "http://gpu-1",
		"unix:///run/vllm.sock":      "unix:///run/vllm.sock",
	} {
		if e, err := vllm.New(url, vllm.Config{}); err != nil || e.String() != want {
			t.Errorf("New(%q) = %v, %v; want %s", url, e, err, want)
		}
	}
	for url, want := range map[string]string{
		"":                      `has scheme ""`,
		"127.0.0.1:8000":        "cannot be read",
		"ftp://x":               `has scheme "ftp"; want http, https or unix`,
		"http://":               "has no host",
		"http://:8000":          "has no host",
		"http://x?a=b":          "has a query or a fragment",
		"http://x/?":            "has a query or a fragment",
		"http://x#a":            "has a query or a fragment",
		"unix://":               "names no socket",
		"unix://run/vllm.sock":  "names no socket",
		"unix:///":              "names no socket",
		"http://a:s3cret@x:y":   "not shown",
		"http://a:s3cret@x#b":   "not shown",
		"http://a:s3cret@b@c%z": "not shown",
	} {
		_, err := vllm.New(url, vllm.Config{})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("New(%q): error = %v, want %q", url, err, want)
		}
	}
}

func TestNewNamesEveryFaultOfTheConfig(t *testing.T) {
	t.Parallel()
	_, err := vllm.New("ftp://x", vllm.Config{
		MaxEventBytes: -1, MaxErrorBytes: -2, MaxConns: -3,
		ConnectTimeout: -1, HealthTimeout: -1, TokenizeTimeout: -1, CanaryTimeout: -1, APIKey: "s3cret\n",
	})
	for _, want := range []string{
		"ftp", "MaxEventBytes is -1; want 0 or more", "MaxErrorBytes is -2", "MaxConns is -3",
		"ConnectTimeout is -1ns", "HealthTimeout", "TokenizeTimeout", "CanaryTimeout", "APIKey holds",
	} {
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("error = %v, want %q in it", err, want)
		}
	}
	_, err = vllm.New("http://a:s3cret@x", vllm.Config{APIKey: "key"})
	if err == nil || !strings.Contains(err.Error(), "credentials in its URL and an APIKey") {
		t.Errorf("error = %v", err)
	}
}
