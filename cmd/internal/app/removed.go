package app

import (
	"fmt"
	"strings"
)

// removedSettings are what vLLM does not understand, or no longer, with what has become of it. They are accepted
// anywhere under vllm_integration and in the engine_args of a model, reported once and never passed on: vllm serve refuses to start
// with an argument that it does not know.
var removedSettings = map[string]string{
	"use_v2_block_manager":    "vLLM has had no other block manager since 0.6.4, and no such setting since 0.8 (vllm#8704, #13492)",
	"enable_v2_block_manager": "vLLM has had no other block manager since 0.6.4 (vllm#8704)",
	"enable_paged_attention":  "paged attention is how vLLM works; there is no setting for it",
	"use_beam_search":         "beam search cannot stream in vLLM; a request may still ask for it by itself",
	"early_stopping":          "it belonged to beam search; vLLM's server has no such setting",
	"swap_space":              "vLLM has had no swap space since 0.18 (vllm#36216); see its --kv-offloading-size",
}

// removed handles a setting that vLLM no longer has, and reports whether name is one.
func (d decoder) removed(path, name string, raw any) bool {
	why, ok := removedSettings[name]
	if !ok || !strings.HasPrefix(path, "vllm_integration.") && !isEngineArg(path) {
		return false
	}
	switch v := raw.(type) {
	case bool:
		if v || name == "use_v2_block_manager" || name == "enable_v2_block_manager" || name == "enable_paged_attention" {
			d.notice(path, fmt.Sprintf("%t is not passed on: %s", v, why))
		}
	case int64, float64:
		if name != "swap_space" {
			d.faults.add(path, "%s; want true or false", describe(raw))
			break
		}
		d.notice(path, fmt.Sprintf("%v is not passed on: %s", v, why))
	default:
		want := "true or false"
		if name == "swap_space" {
			want = "a number"
		}
		d.faults.add(path, "%s; want %s", describe(raw), want)
	}
	return true
}

func (d decoder) notice(path, text string) {
	*d.notices = append(*d.notices, path+": "+text)
}

// unusedNotices tells which accepted settings this version takes no action on.
func unusedNotices(c *Config) []string {
	var out []string
	add := func(on bool, path, why string) {
		if on {
			out = append(out, "service_network."+path+": "+why)
		}
	}
	in, ext, sec := c.Network.Internal, c.Network.External, c.Network.Security
	add(in.ServiceDiscovery != "", "internal_communication.service_discovery",
		"not contacted: workers announce themselves over NATS (hxp workers ls)")
	add(ext.APIGateway != "", "external_integration.api_gateway", "kept for the HTTP edge; no command of this version listens there")
	add(ext.Monitoring != "", "external_integration.monitoring", "not contacted: Prometheus scrapes http.listen")
	add(ext.Metrics != "", "external_integration.metrics", "not contacted: dashboards read Prometheus")
	add(sec.SSLEnabled, "security_requirements.ssl_enabled",
		"applies to the HTTP edge; for the queue use a tls:// address in nats.url and nats.ca")
	add(sec.AuthenticationRequired, "security_requirements.authentication_required",
		"applies to the HTTP edge; the queue is protected by the permissions of the NATS server (nats.creds)")
	add(sec.RateLimiting, "security_requirements.rate_limiting",
		"applies to the HTTP edge; the queue bounds every tenant with queue.max_jobs_per_tenant")
	return out
}
