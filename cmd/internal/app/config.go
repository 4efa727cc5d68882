package app

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/workers/moderation"
)

// Config is the whole configuration. Make one with [Load]: its zero value has no models.
//
// The config tag is a setting's name in YAML; a dotted chain of names is its path. A secret is
// never shown.
type Config struct {
	Models  map[string]Model `config:"ai_model_services"`
	VLLM    VLLM             `config:"vllm_integration"`
	Network Network          `config:"service_network"`
	// Tenant owns the jobs that the client commands submit.
	Tenant string `config:"tenant"`
	NATS   NATS   `config:"nats"`
	Redis  Redis  `config:"redis"`
	// Conversation is how sessions are kept, and what of them a model is shown.
	Conversation Conversation `config:"conversation"`
	Queue        Queue        `config:"queue"`
	Worker       Work         `config:"worker"`
	// Moderation checks requests and replies.
	Moderation Moderation `config:"moderation"`
	Log        Log        `config:"log"`
	HTTP       HTTP       `config:"http"`
	// Sim is how engines that are simulated are.
	Sim Simulation `config:"sim"`

	// Notices are what Load has to say about settings that are accepted and have no effect.
	Notices []string `config:"-"`

	settings  []Setting
	options   LoadOptions // what Load was told, to do it again
	files     []string    // what it has read
	moderator *moderation.Moderator
	moderated [32]byte // what its files held
}

// Network is where the parts of an installation find each other.
type Network struct {
	Internal InternalCommunication `config:"internal_communication"`
	External ExternalIntegration   `config:"external_integration"`
	Security SecurityRequirements  `config:"security_requirements"`
}

// InternalCommunication holds the addresses inside the installation.
type InternalCommunication struct {
	// Localhost is the address at which the engines listen.
	Localhost        string `config:"localhost"`
	ServiceDiscovery string `config:"service_discovery"`
}

// ExternalIntegration holds the addresses of the systems around it.
type ExternalIntegration struct {
	APIGateway string `config:"api_gateway"`
	Monitoring string `config:"monitoring"`
	Metrics    string `config:"metrics"`
}

// SecurityRequirements are what an HTTP edge has to enforce.
type SecurityRequirements struct {
	SSLEnabled             bool `config:"ssl_enabled"`
	AuthenticationRequired bool `config:"authentication_required"`
	RateLimiting           bool `config:"rate_limiting"`
	RequestValidation      bool `config:"request_validation"`
}

// NATS is how the queue is reached and, for [Up], where it listens.
type NATS struct {
	URL      string        `config:"url,secret-url"`
	Creds    string        `config:"creds"`
	User     string        `config:"user"`
	Password string        `config:"password,secret"`
	CA       string        `config:"ca"`
	Timeout  time.Duration `config:"timeout"`
	// Listen is where the server that up embeds listens.
	Listen string `config:"listen"`
	// Data is the folder of the server that up embeds; by default ./.hxp, or hxp under XDG_STATE_HOME.
	Data string `config:"data"`
}

// Queue bounds what is stored; see [queue.Config], whose fields these are.
type Queue struct {
	Replicas         int           `config:"replicas"`
	Storage          string        `config:"storage"`
	MaxJobs          int64         `config:"max_jobs"`
	MaxBytes         Bytes         `config:"max_bytes"`
	MaxJobsPerTenant int64         `config:"max_jobs_per_tenant"`
	MaxJobBytes      Bytes         `config:"max_job_bytes"`
	DuplicateWindow  time.Duration `config:"duplicate_window"`
	Lease            time.Duration `config:"lease"`
	EventsMaxAge     time.Duration `config:"events_max_age"`
	EventsMaxBytes   Bytes         `config:"events_max_bytes"`
	ResultsMaxAge    time.Duration `config:"results_max_age"`
	ResultsMaxBytes  Bytes         `config:"results_max_bytes"`
	DeadMaxAge       time.Duration `config:"dead_max_age"`
	WorkerTTL        time.Duration `config:"worker_ttl"`
	CancelTTL        time.Duration `config:"cancel_ttl"`
	MaxBodiesBytes   Bytes         `config:"max_bodies_bytes"`
	BodiesMaxAge     time.Duration `config:"bodies_max_age"`
	// MaxBodyBytes is the size of the largest body that a job may have, for producers and workers.
	MaxBodyBytes Bytes `config:"max_body_bytes"`
	// MaxBatchesBytes bounds the inputs of batches, and once more their records.
	MaxBatchesBytes Bytes         `config:"max_batches_bytes"`
	BatchesMaxAge   time.Duration `config:"batches_max_age"`
}

// Config returns q as package queue takes it.
func (q Queue) Config() queue.Config {
	storage := jetstream.FileStorage
	if q.Storage == "memory" {
		storage = jetstream.MemoryStorage
	}
	return queue.Config{
		Replicas: q.Replicas, Storage: storage,
		MaxJobs: q.MaxJobs, MaxBytes: int64(q.MaxBytes), MaxJobsPerTenant: q.MaxJobsPerTenant, MaxJobBytes: int32(q.MaxJobBytes),
		DuplicateWindow: q.DuplicateWindow, Lease: q.Lease,
		EventsMaxAge: q.EventsMaxAge, EventsMaxBytes: int64(q.EventsMaxBytes),
		ResultsMaxAge: q.ResultsMaxAge, ResultsMaxBytes: int64(q.ResultsMaxBytes),
		DeadMaxAge: q.DeadMaxAge, WorkerTTL: q.WorkerTTL, CancelTTL: q.CancelTTL,
		MaxBodiesBytes: int64(q.MaxBodiesBytes), BodiesMaxAge: q.BodiesMaxAge,
		MaxBatchesBytes: int64(q.MaxBatchesBytes), BatchesMaxAge: q.BatchesMaxAge,
	}
}

// Work is how workers work.
type Work struct {
	// Slots is how many sequences a worker runs at once, unless its model says otherwise. By default the engine's max_num_seqs.
	Slots int `config:"slots"`
	// DrainTimeout, StandardShare, BatchShare and Coalesce may be 0: hand back at once, no guaranteed share, no waiting.
	DrainTimeout      time.Duration `config:"drain_timeout"`
	FirstTokenTimeout time.Duration `config:"first_token_timeout"`
	TokenTimeout      time.Duration `config:"token_timeout"`
	Attempts          int           `config:"attempts"`
	Coalesce          time.Duration `config:"coalesce"`
	StandardShare     float64       `config:"standard_share"`
	BatchShare        float64       `config:"batch_share"`
	// GroupSize and GroupWait are those of the models that have none of their own.
	GroupSize int           `config:"group_size"`
	GroupWait time.Duration `config:"group_wait"`
}

// Log is what is written to stderr.
type Log struct {
	Level string `config:"level"`
	// Prompts allows prompts and replies in the log.
	Prompts bool `config:"prompts"`
}

// HTTP is the listener for health and metrics.
type HTTP struct {
	Listen string `config:"listen"`
}
