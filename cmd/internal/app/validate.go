package app

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/hxp-enterprise/hxp/schemas"
)

// validate adds every value that is out of its bounds to f.
func validate(c *Config, f *faults) {
	ports := ports{taken: map[string]string{}, faults: f}
	validateModels(c, f, &ports)
	validateVLLM(c.VLLM, f)
	if c.Network.Internal.Localhost == "" {
		f.add("service_network.internal_communication.localhost", "is empty; want the address at which the engines listen")
	}
	if err := schemas.CheckToken(c.Tenant); err != nil {
		f.add("tenant", "%v", err)
	}
	validateNATS(c.NATS, f, &ports)
	validateRedis(c.Redis, f, &ports)
	validateConversation(c.Conversation, f)
	validateQueue(c.Queue, f)
	validateWork(c.Worker, f)
	validateModeration(c, f)
	if _, err := zerolog.ParseLevel(c.Log.Level); err != nil || c.Log.Level == "" {
		f.add("log.level", "%q is no level; want trace, debug, info, warn, error or disabled", c.Log.Level)
	}
	ports.listen("http.listen", c.HTTP.Listen)
	validateSim(c.Sim, f)
}

func validateNATS(n NATS, f *faults, ports *ports) {
	for part := range strings.SplitSeq(n.URL, ",") {
		checkURL(f, "nats.url", strings.TrimSpace(part), "nats", "tls", "ws", "wss")
	}
	between(f, "nats.timeout", n.Timeout, 10*time.Millisecond, 10*time.Minute)
	ports.listen("nats.listen", n.Listen)
	if n.Password != "" && n.User == "" {
		f.add("nats.password", "is set without nats.user")
	}
	if n.Creds != "" && n.User != "" {
		f.add("nats.user", "is set beside nats.creds; want one of the two")
	}
}

func validateQueue(q Queue, f *faults) {
	between(f, "queue.replicas", q.Replicas, 1, 5)
	if q.Storage != "file" && q.Storage != "memory" {
		f.add("queue.storage", "%q is neither file nor memory", q.Storage)
	}
	atLeast(f, "queue.max_jobs", q.MaxJobs, 1)
	atLeast(f, "queue.max_jobs_per_tenant", q.MaxJobsPerTenant, 1)
	between(f, "queue.max_job_bytes", q.MaxJobBytes, 1<<10, 64<<20)
	atLeast(f, "queue.max_bytes", q.MaxBytes, 1<<20)
	atLeast(f, "queue.events_max_bytes", q.EventsMaxBytes, 1<<20)
	atLeast(f, "queue.results_max_bytes", q.ResultsMaxBytes, 1<<20)
	between(f, "queue.duplicate_window", q.DuplicateWindow, 100*time.Millisecond, 24*time.Hour)
	between(f, "queue.lease", q.Lease, 200*time.Millisecond, time.Hour)
	const year = 366 * 24 * time.Hour
	between(f, "queue.events_max_age", q.EventsMaxAge, time.Second, year)
	between(f, "queue.results_max_age", q.ResultsMaxAge, time.Second, year)
	between(f, "queue.dead_max_age", q.DeadMaxAge, time.Second, year)
	between(f, "queue.worker_ttl", q.WorkerTTL, time.Second, time.Hour)
	between(f, "queue.cancel_ttl", q.CancelTTL, time.Second, year)
	atLeast(f, "queue.max_bodies_bytes", q.MaxBodiesBytes, 1<<20)
	between(f, "queue.bodies_max_age", q.BodiesMaxAge, 24*time.Hour, year)
	between(f, "queue.max_body_bytes", q.MaxBodyBytes, 1<<10, 1<<30)
	atLeast(f, "queue.max_batches_bytes", q.MaxBatchesBytes, 1<<20)
	between(f, "queue.batches_max_age", q.BatchesMaxAge, time.Hour, year)
}

func validateWork(w Work, f *faults) {
	between(f, "worker.slots", w.Slots, 1, 65536)
	between(f, "worker.drain_timeout", w.DrainTimeout, 0, 24*time.Hour)
	between(f, "worker.first_token_timeout", w.FirstTokenTimeout, 10*time.Millisecond, time.Hour)
	between(f, "worker.token_timeout", w.TokenTimeout, 10*time.Millisecond, time.Hour)
	between(f, "worker.attempts", w.Attempts, 1, 50)
	between(f, "worker.coalesce", w.Coalesce, 0, time.Second)
	between(f, "worker.standard_share", w.StandardShare, 0, 0.5)
	between(f, "worker.batch_share", w.BatchShare, 0, 0.5)
	validateGroup(f, "worker", w.GroupSize, w.GroupWait)
}

// ModelNames lists the models, by port and then by name: the order of the specification.
func (c *Config) ModelNames() []string {
	names := make([]string, 0, len(c.Models))
	for name := range c.Models {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(c.Models[a].Port, c.Models[b].Port), strings.Compare(a, b))
	})
	return names
}

func between[T cmp.Ordered](f *faults, path string, v, least, most T) bool {
	switch {
	case v < least:
		f.add(path, "%v is below %v", v, least)
	case v > most:
		f.add(path, "%v is above %v", v, most)
	default:
		return true
	}
	return false
}

func atLeast[T cmp.Ordered](f *faults, path string, v, least T) {
	if v < least {
		f.add(path, "%v is below %v", v, least)
	}
}

// fraction wants a part of a whole that is not nothing.
func fraction(f *faults, path string, v float64) {
	switch {
	case v <= 0:
		f.add(path, "%v is not above 0", v)
	case v > 1:
		f.add(path, "%v is above 1", v)
	}
}

// bounds wants both ends of a range within the limits, and in order.
func bounds[R ~[2]T, T int | float64](f *faults, path string, r R, least, most T) {
	switch {
	case r[0] > r[1]:
		f.add(path, "the lowest, %v, is above the highest, %v", r[0], r[1])
	case r[0] < least:
		f.add(path, "the lowest, %v, is below %v", r[0], least)
	case r[1] > most:
		f.add(path, "the highest, %v, is above %v", r[1], most)
	}
}

func checkURL(f *faults, path, value string, schemes ...string) {
	u, err := url.Parse(value)
	switch {
	case err != nil:
		f.add(path, "is not a URL")
	case !slices.Contains(schemes, u.Scheme):
		f.add(path, "%q is not a URL with %s", maskURL(value), strings.Join(schemes, ", "))
	case u.Host == "" && u.Scheme != "unix":
		f.add(path, "%q names no host", maskURL(value))
	}
}

// ports finds addresses that two parts would have to share.
type ports struct {
	taken  map[string]string
	faults *faults
}

func (p *ports) listen(path, address string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		p.faults.add(path, "%q is not an address; want host:port", address)
		return
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 0 || n > 65535 {
		p.faults.add(path, "port %q is not between 0 and 65535", port)
		return
	}
	p.take(path, host, n)
}

// take notes that path listens on port of host; port 0 is any free one.
func (p *ports) take(path, host string, port int) {
	if port == 0 {
		return
	}
	address := fmt.Sprintf("%s:%d", host, port)
	if other, ok := p.taken[address]; ok {
		if l := p.faults.sources[path].Layer; l == "" || l == "default" {
			path, other = other, path // the built-in value is not the one to change
		}
		p.faults.add(path, "%d is taken by %s", port, other)
		return
	}
	p.taken[address] = path
}
