package workers

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/schemas"
)

// Config tunes a worker. The zero value is ready for use.
type Config struct {
	// ID names the worker in the registry, in events and in logs; a subject token. Defaults to the model and a random suffix.
	ID string
	// Slots is how many sequences the engine may have in flight. Defaults to 256, vLLM's usual max_num_seqs.
	Slots int
	// Reserved are the slots that less urgent jobs leave free.
	Reserved Reserved
	// TargetLatency is the time to the first token that the engine is to keep. While it does not, fewer
	// jobs are given to it, down to an eighth of Slots. What is compared is the median, over the jobs
	// that began since the limit was last lowered, of the time from the moment a job's request goes to
	// the engine to its first token; a job that has already waited longer than the target counts with
	// its wait so far. The time in hxp's queue is not in it, because that grows when the limit falls, and the
	// time to the whole reply is not, because that is the reply's length as much as the engine's pace. It is the
	// median, so that a few long prompts, whose first token is late on an idle engine too, do not throttle the others.
	// A worker that keeps it in fewer than nine of ten interactive and standard jobs says that it is
	// degraded. 0 is no target.
	TargetLatency time.Duration
	// TargetInterToken is the same for the mean time between the tokens of a reply: for engines whose
	// steps grow with the batch. 0 is no target.
	TargetInterToken time.Duration
	// LoadInterval is the time between two looks at the engine's load. Defaults to 500 ms.
	LoadInterval time.Duration
	// StandardShare is the part of all starts, between 0 and 0.5, that standard jobs get even when
	// more urgent ones are waiting. Defaults to 0.1; negative for none.
	StandardShare float64
	// BatchShare is the same for batch jobs. Defaults to 0.05; negative for none.
	BatchShare float64
	// DrainTimeout is how long jobs in flight may run on after Run's context has ended. Defaults to 30 s; negative hands back at once.
	DrainTimeout time.Duration
	// MaxAttempts is how many attempts of a job may fail before it is given up. Defaults to 3.
	MaxAttempts int
	// MaxDeliveries bounds the deliveries of a job whose attempts cannot be counted because its events have expired. Defaults to 50.
	MaxDeliveries int
	// RetryDelay is the wait after the first failed attempt; it doubles with each. Defaults to 500 ms.
	RetryDelay time.Duration
	// MaxRetryDelay bounds that wait. Defaults to 30 s.
	MaxRetryDelay time.Duration
	// FirstTokenTimeout is how long the engine may take to the first token before the attempt is aborted and retried. Defaults to 60 s.
	FirstTokenTimeout time.Duration
	// TokenTimeout is the same between two tokens. Defaults to 15 s.
	TokenTimeout time.Duration
	// Coalesce is how long tokens after the first may wait for company in one event. Defaults to 2 ms; negative for none.
	Coalesce time.Duration
	// GroupSize is how many batch completions of one shape may go to the engine as one request, at most
	// 1024. Defaults to 32; 1 sends each alone.
	GroupSize int
	// GroupWait is how long the first of a group waits for others. Defaults to 20 ms; negative for not at all.
	GroupWait time.Duration
	// HealthInterval is the time between two looks at a healthy engine; an ailing one is looked at four times as often. Defaults to 2 s.
	HealthInterval time.Duration
	// Heartbeat is the time between two announcements in the worker registry. Defaults to 3 s.
	Heartbeat time.Duration
	// MaxBodyBytes is the size of the largest body that is fetched for a job which refers to one. Each
	// job in flight may hold one in memory. Defaults to 16 MiB.
	MaxBodyBytes int
	// Breaker stops the pulling while the engine fails too often.
	Breaker Breaker
	// Conversations are where the history of jobs with a session is. nil refuses such jobs.
	Conversations *conversation.Store
	// Sessions is how they are treated.
	Sessions Sessions
	// Covers are other models whose jobs the worker takes as well while they have no worker.
	Covers []Cover
	// Limits are the bounds on requests.
	Limits Limits
	// Capabilities are what the model can do.
	Capabilities Capabilities
	// Moderator checks requests and replies. nil checks nothing.
	Moderator Moderator
	// LogPrompts allows prompt and answer text in logs.
	LogPrompts bool
	// Logger receives one line for each job's outcome. The zero value is silent.
	Logger zerolog.Logger
	// Registry receives the metrics; several workers may share one. nil keeps them on a registry of the worker's own.
	Registry *prometheus.Registry
	// LeaseConn renews leases, apart from the connection that carries tokens. nil uses the JetStream context's own.
	LeaseConn *nats.Conn
}

// Limits bound what a request may ask for. A zero field sets no bound.
type Limits struct {
	// MaxModelLen is the context window in tokens. The engine's own applies as well.
	MaxModelLen int
	// Temperature, TopP and MaxTokens are inclusive ranges.
	Temperature [2]float64
	TopP        [2]float64
	MaxTokens   [2]int
}

func (c Config) withDefaults(model string) Config {
	c.ID = cmp.Or(c.ID, model+"-"+uuid.NewString()[:8])
	c.Slots = cmp.Or(c.Slots, 256)
	c.Reserved = c.Reserved.withDefaults(c.Slots)
	c.LoadInterval = cmp.Or(c.LoadInterval, 500*time.Millisecond)
	c.StandardShare = max(0, cmp.Or(c.StandardShare, 0.1))
	c.BatchShare = max(0, cmp.Or(c.BatchShare, 0.05))
	c.DrainTimeout = max(0, cmp.Or(c.DrainTimeout, 30*time.Second))
	c.MaxAttempts = cmp.Or(c.MaxAttempts, 3)
	c.MaxDeliveries = cmp.Or(c.MaxDeliveries, 50)
	c.RetryDelay = cmp.Or(c.RetryDelay, 500*time.Millisecond)
	c.MaxRetryDelay = cmp.Or(c.MaxRetryDelay, 30*time.Second)
	c.FirstTokenTimeout = cmp.Or(c.FirstTokenTimeout, time.Minute)
	c.TokenTimeout = cmp.Or(c.TokenTimeout, 15*time.Second)
	c.Coalesce = max(0, cmp.Or(c.Coalesce, 2*time.Millisecond))
	c.GroupSize = cmp.Or(c.GroupSize, 32)
	c.GroupWait = max(0, cmp.Or(c.GroupWait, 20*time.Millisecond))
	c.HealthInterval = cmp.Or(c.HealthInterval, 2*time.Second)
	c.MaxBodyBytes = cmp.Or(c.MaxBodyBytes, 16<<20)
	c.Heartbeat = cmp.Or(c.Heartbeat, 3*time.Second)
	c.Sessions = c.Sessions.withDefaults()
	c.Breaker = c.Breaker.withDefaults(c.HealthInterval)
	covers := make([]Cover, len(c.Covers)) // the caller's own stay as they are
	for i, cover := range c.Covers {
		covers[i] = cover.withDefaults()
	}
	c.Covers = covers
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	return c
}

func (c Config) validate(model string) error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	if err := schemas.CheckToken(model); err != nil {
		errs = append(errs, fmt.Errorf("model %w", err))
	}
	if err := schemas.CheckToken(c.ID); err != nil {
		errs = append(errs, fmt.Errorf("ID %w", err))
	}
	check(c.Slots > 0, "Slots is %d; want at least 1", c.Slots)
	check(c.Reserved.FromStandard < max(1, c.Slots), "Reserved.FromStandard is %d; want less than Slots, %d", c.Reserved.FromStandard, c.Slots)
	check(c.Reserved.FromBatch < max(1, c.Slots), "Reserved.FromBatch is %d; want less than Slots, %d", c.Reserved.FromBatch, c.Slots)
	check(c.TargetLatency >= 0, "TargetLatency is %s; want at least 0", c.TargetLatency)
	check(c.TargetInterToken >= 0, "TargetInterToken is %s; want at least 0", c.TargetInterToken)
	check(c.StandardShare <= 0.5, "StandardShare is %g; want at most 0.5", c.StandardShare)
	check(c.BatchShare <= 0.5, "BatchShare is %g; want at most 0.5", c.BatchShare)
	check(c.GroupSize >= 1 && c.GroupSize <= maxGroup, "GroupSize is %d; want 1 to %d", c.GroupSize, maxGroup)
	check(c.MaxAttempts > 0, "MaxAttempts is %d; want at least 1", c.MaxAttempts)
	check(c.MaxDeliveries >= c.MaxAttempts, "MaxDeliveries is %d; want at least MaxAttempts, %d", c.MaxDeliveries, c.MaxAttempts)
	check(c.MaxBodyBytes > 0, "MaxBodyBytes is %d; want at least 1", c.MaxBodyBytes)
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"RetryDelay", c.RetryDelay}, {"MaxRetryDelay", c.MaxRetryDelay}, {"FirstTokenTimeout", c.FirstTokenTimeout},
		{"TokenTimeout", c.TokenTimeout}, {"HealthInterval", c.HealthInterval}, {"Heartbeat", c.Heartbeat},
		{"LoadInterval", c.LoadInterval},
	} {
		check(d.value > 0, "%s is %s; want above 0", d.name, d.value)
	}
	switch c.Capabilities.SystemRole {
	case "", SystemNative, SystemFold, SystemRefuse:
	default:
		check(false, "Capabilities.SystemRole is %q; want native, fold or refuse", c.Capabilities.SystemRole)
	}
	check(c.TargetLatency >= 0, "TargetLatency is %s; want at least 0", c.TargetLatency)
	if err := c.Breaker.validate(); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, c.Sessions.validate(), validateCovers(c.Covers, model))
	check(c.Limits.MaxModelLen >= 0, "Limits.MaxModelLen is %d; want at least 0", c.Limits.MaxModelLen)
	check(c.Limits.Temperature[0] <= c.Limits.Temperature[1], "Limits.Temperature is %v; want minimum before maximum", c.Limits.Temperature)
	check(c.Limits.TopP[0] <= c.Limits.TopP[1], "Limits.TopP is %v; want minimum before maximum", c.Limits.TopP)
	check(c.Limits.MaxTokens[0] <= c.Limits.MaxTokens[1], "Limits.MaxTokens is %v; want minimum before maximum", c.Limits.MaxTokens)
	return errors.Join(errs...)
}
