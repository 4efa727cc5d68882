package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Ensure creates the streams, consumers and buckets of models where they are missing. What exists
// and differs is returned, not changed. It is an error if a jobs stream is not a work queue, or if
// JetStream is not there. Many processes may call it at once.
func Ensure(ctx context.Context, js jetstream.JetStream, models []string, cfg Config) ([]Difference, error) {
	return setUp(ctx, js, models, cfg, false)
}

// Apply does what [Ensure] does and also changes what differs, as far as the server can change it
// in place. It returns what it changed; what cannot be changed is an error that says so, after
// everything else was done.
func Apply(ctx context.Context, js jetstream.JetStream, models []string, cfg Config) ([]Difference, error) {
	return setUp(ctx, js, models, cfg, true)
}

func setUp(ctx context.Context, js jetstream.JetStream, models []string, cfg Config, apply bool) ([]Difference, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	models = slices.Compact(slices.Sorted(slices.Values(models)))
	var faults []error
	for _, m := range models {
		if err := schemas.CheckToken(m); err != nil {
			faults = append(faults, fmt.Errorf("queue: model %w", err))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	level, err := apiLevel(ctx, js)
	if err != nil {
		return nil, err
	}

	s := setup{js: js, cfg: cfg, models: len(models), apply: apply}
	err = s.all(ctx, models, level)
	return s.diffs, errors.Join(append(s.stuck, err)...)
}

// apiLevel asks for the account's JetStream, which also tells whether there is one.
func apiLevel(ctx context.Context, js jetstream.JetStream) (level int, err error) {
	err = attempts(ctx, js, func(ctx context.Context) error {
		info, err := js.AccountInfo(ctx)
		if err == nil {
			level = info.API.Level
		}
		return err
	})
	switch {
	case noJetStream(err):
		return 0, fmt.Errorf("%w: %w", ErrNoJetStream, err)
	case err != nil:
		return 0, fmt.Errorf("ask for JetStream: %w", err)
	}
	return level, nil
}

// jobsStream is the work queue of a model. Every cap refuses the new job and says so; nothing that
// was accepted is dropped to make room. A tenant's cap is the cap on its one subject of a class.
func jobsStream(model string, cfg Config) jetstream.StreamConfig {
	// The subjects name the classes, so that a job of a class that does not exist finds no stream: it
	// would be stored where no consumer looks.
	var subjects []string
	for _, class := range schemas.Classes() {
		subjects = append(subjects, schemas.JobsOfClass(model, class))
	}
	return jetstream.StreamConfig{
		Name:                 schemas.JobsStream(model),
		Description:          "hxp: jobs for model " + model,
		Subjects:             subjects,
		Retention:            jetstream.WorkQueuePolicy,
		Storage:              cfg.Storage,
		Replicas:             cfg.Replicas,
		Discard:              jetstream.DiscardNew,
		DiscardNewPerSubject: true,
		MaxMsgsPerSubject:    cfg.MaxJobsPerTenant,
		MaxMsgs:              cfg.MaxJobs,
		MaxBytes:             cfg.MaxBytes,
		MaxMsgSize:           cfg.MaxJobBytes,
		Duplicates:           cfg.DuplicateWindow,
		AllowDirect:          true,
	}
}

// shared are the streams that serve all models, buckets included.
func shared(cfg Config, level int) []jetstream.StreamConfig {
	// On file, although it is written anew every few seconds: a single server forgets streams in memory
	// when it restarts, and the workers that live on would have nowhere to announce themselves.
	workers := bucket(schemas.WorkersBucket, "hxp: live workers", cfg)
	workers.MaxAge = cfg.WorkerTTL
	if level >= 1 {
		workers.AllowMsgTTL = true
		workers.SubjectDeleteMarkerTTL = markerTTL
	}
	cancels := bucket(schemas.CancelsBucket, "hxp: cancel requests", cfg)
	cancels.MaxAge = cfg.CancelTTL
	locks := bucket(schemas.LocksBucket, "hxp: locks", cfg)
	locks.MaxAge = cfg.LockTTL
	for _, b := range []*jetstream.StreamConfig{&workers, &cancels, &locks} {
		b.Duplicates = min(bucketDuplicates, b.MaxAge)
	}
	bodies := objects(schemas.BodiesBucket, "hxp: bodies that are too large for a message", cfg)
	return []jetstream.StreamConfig{
		{
			// The record of what workers publish for clients: no acks, so that a token costs one
			// plain publish. It may forget its oldest; it must not slow its newest.
			Name:        schemas.EventsStream,
			Description: "hxp: events of jobs, for replay",
			Subjects:    []string{schemas.AllEvents},
			Retention:   jetstream.LimitsPolicy,
			Storage:     cfg.Storage,
			Replicas:    cfg.Replicas,
			Discard:     jetstream.DiscardOld,
			MaxAge:      cfg.EventsMaxAge,
			MaxBytes:    cfg.EventsMaxBytes,
			NoAck:       true,
			AllowDirect: true,
		},
		{
			// One message per subject and discard-new per subject: the stream itself refuses a
			// second result, whoever writes it and however.
			Name:                 schemas.ResultsStream,
			Description:          "hxp: results of jobs",
			Subjects:             []string{schemas.AllResults},
			Retention:            jetstream.LimitsPolicy,
			Storage:              cfg.Storage,
			Replicas:             cfg.Replicas,
			Discard:              jetstream.DiscardNew,
			DiscardNewPerSubject: true,
			MaxMsgsPerSubject:    1,
			MaxAge:               cfg.ResultsMaxAge,
			MaxBytes:             cfg.ResultsMaxBytes,
			AllowDirect:          true,
		},
		{
			Name:        schemas.DeadStream,
			Description: "hxp: jobs that were given up",
			Subjects:    []string{schemas.AllDead},
			Retention:   jetstream.LimitsPolicy,
			Storage:     cfg.Storage,
			Replicas:    cfg.Replicas,
			Discard:     jetstream.DiscardOld,
			MaxAge:      cfg.DeadMaxAge,
			Duplicates:  min(cfg.DuplicateWindow, cfg.DeadMaxAge),
			AllowDirect: true,
		},
		workers,
		cancels,
		locks,
		bodies,
	}
}

// setup is one run of [Ensure] or [Apply].
type setup struct {
	js     jetstream.JetStream
	cfg    Config
	models int
	apply  bool
	diffs  []Difference
	stuck  []error
}

func (s *setup) all(ctx context.Context, models []string, level int) error {
	for _, want := range append(shared(s.cfg, level), batchStreams(s.cfg)...) {
		if err := s.stream(ctx, want); err != nil {
			return err
		}
	}
	for _, m := range models {
		if err := s.stream(ctx, jobsStream(m, s.cfg)); err != nil {
			return err
		}
		for _, class := range schemas.Classes() {
			if err := s.consumer(ctx, schemas.JobsStream(m), classConsumer(m, class, s.cfg)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *setup) stream(ctx context.Context, want jetstream.StreamConfig) error {
	var have *jetstream.StreamConfig
	err := attempts(ctx, s.js, func(ctx context.Context) error {
		stream, err := s.js.Stream(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			stream, err = s.js.CreateStream(ctx, want)
			if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
				// Another process was faster, with other settings.
				stream, err = s.js.Stream(ctx, want.Name)
			}
		}
		if err != nil {
			return err
		}
		have = &stream.CachedInfo().Config
		return nil
	})
	if err != nil {
		return fmt.Errorf("set up stream %s: %w", want.Name, s.explain(err, want))
	}
	if want.Retention == jetstream.WorkQueuePolicy && have.Retention != jetstream.WorkQueuePolicy {
		return fmt.Errorf("stream %s has retention %s; want a work queue, and a stream cannot be turned into one: delete it first", want.Name, have.Retention)
	}
	diffs, merged, stuck := compareStream(*have, want)
	if !s.apply || len(diffs) == 0 {
		s.diffs = append(s.diffs, diffs...)
		return nil
	}
	return s.change(stuck, diffs, want.Name, func() error {
		_, err := s.js.UpdateStream(ctx, merged)
		return s.explain(err, want)
	})
}

// change applies differences, but for those in stuck.
func (s *setup) change(stuck map[string]string, diffs []Difference, object string, update func() error) error {
	var done []Difference
	for _, d := range diffs {
		if why, ok := stuck[d.Field]; ok {
			s.stuck = append(s.stuck, fmt.Errorf("%s, and %s", d, why))
			continue
		}
		done = append(done, d)
	}
	if len(done) == 0 {
		return nil
	}
	if err := update(); err != nil {
		return fmt.Errorf("change %s: %w", object, err)
	}
	s.diffs = append(s.diffs, done...)
	return nil
}

// explain adds what the server's words leave out.
func (s *setup) explain(err error, want jetstream.StreamConfig) error {
	switch apiError(err).ErrorCode {
	case codeStorageLimit, codeMemoryLimit, codeResources, codeAccountLimits:
		return fmt.Errorf("the server does not have the room that is to be set aside: %s for this stream, %s for %d models in all "+
			"(MaxBytes, EventsMaxBytes, ResultsMaxBytes, MaxBodiesBytes, MaxBatchesBytes); lower these or give JetStream a larger store: %w",
			bytesText(want.MaxBytes), bytesText(s.cfg.reserved(s.models)), s.models, err)
	case codeSubjectsTaken:
		return fmt.Errorf("another stream already takes %s: %w", strings.Join(want.Subjects, ", "), err)
	}
	return err
}

// Models lists the models that have a work queue, sorted.
func Models(ctx context.Context, js jetstream.JetStream) ([]string, error) {
	var models []string
	err := attempts(ctx, js, func(ctx context.Context) error {
		models = nil
		names := js.StreamNames(ctx, jetstream.WithStreamListSubject(schemas.JobsOfModel("*")))
		for name := range names.Name() {
			if model, ok := strings.CutPrefix(name, schemas.JobsStream("")); ok && schemas.CheckToken(model) == nil {
				models = append(models, model)
			}
		}
		return names.Err()
	})
	if noJetStream(err) {
		err = fmt.Errorf("%w: %w", ErrNoJetStream, err)
	}
	if err != nil {
		return nil, fmt.Errorf("list models: %w", err)
	}
	slices.Sort(models)
	return models, nil
}
