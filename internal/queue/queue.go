package queue

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Config bounds what is stored. The zero value is ready for use.
type Config struct {
	// Replicas is the number of copies of every stream and bucket. Defaults to 1.
	Replicas int
	// Storage of jobs, events, results and dead letters. Defaults to file.
	Storage jetstream.StorageType
	// MaxJobs is how many jobs a model may have queued or running. Defaults to 100,000.
	MaxJobs int64
	// MaxBytes is how many bytes of jobs a model may have queued. Defaults to 2 GiB.
	MaxBytes int64
	// MaxJobsPerTenant is how many jobs of one class a tenant may have queued for a model. Defaults to 10,000.
	MaxJobsPerTenant int64
	// MaxJobBytes is the size of the largest job. Defaults to 1 MiB.
	MaxJobBytes int32
	// DuplicateWindow is how long a second submission of an id is recognised by the broker. Defaults to 10 minutes.
	DuplicateWindow time.Duration
	// Lease is how long a job stays with a worker that does not renew it. Defaults to 4 s.
	Lease time.Duration
	// EventsMaxAge is how long events can be replayed. Defaults to 1 hour.
	EventsMaxAge time.Duration
	// EventsMaxBytes bounds the event record. Defaults to 1 GiB.
	EventsMaxBytes int64
	// ResultsMaxAge is how long a result can be fetched. Defaults to 24 hours.
	ResultsMaxAge time.Duration
	// ResultsMaxBytes bounds the results. When they are full a new one is refused, because dropping
	// an old one would let its job be answered a second time. Defaults to 2 GiB.
	ResultsMaxBytes int64
	// DeadMaxAge is how long a dead letter is kept. Defaults to 14 days.
	DeadMaxAge time.Duration
	// WorkerTTL is how long a worker is listed after its last heartbeat. Defaults to 10 s.
	WorkerTTL time.Duration
	// CancelTTL is how long a cancel request is remembered: the longest time that a cancelled job may
	// wait in the queue without being run after all, since its Result may have expired by then. Defaults
	// to 14 days, or to ResultsMaxAge if that is longer.
	CancelTTL time.Duration
	// LockTTL is how long a [Lock] stays with a holder that does not renew it. Defaults to 10 s.
	LockTTL time.Duration
	// MaxBodiesBytes bounds the bodies that are too large for a message, which are kept on file
	// whatever Storage says. Defaults to 4 GiB.
	MaxBodiesBytes int64
	// BodiesMaxAge is how long such a body is kept if nobody deletes it: the longest time that its job
	// may wait in the queue, or be replayed from the dead letters. At least 24 hours. Defaults to 14
	// days, or to DeadMaxAge if that is longer.
	BodiesMaxAge time.Duration
	// MaxBatchesBytes bounds the inputs of batches, and once more the records of their lines. Both are
	// kept on file whatever Storage says. Defaults to 512 MiB.
	MaxBatchesBytes int64
	// BatchesMaxAge is how long a batch and its files are kept. Defaults to 30 days.
	BatchesMaxAge time.Duration
}

func (c Config) withDefaults() Config {
	c.Replicas = cmp.Or(c.Replicas, 1)
	c.MaxJobs = cmp.Or(c.MaxJobs, 100_000)
	c.MaxBytes = cmp.Or(c.MaxBytes, 2<<30)
	c.MaxJobsPerTenant = cmp.Or(c.MaxJobsPerTenant, 10_000)
	c.MaxJobBytes = cmp.Or(c.MaxJobBytes, 1<<20)
	c.DuplicateWindow = cmp.Or(c.DuplicateWindow, 10*time.Minute)
	c.Lease = cmp.Or(c.Lease, 4*time.Second)
	c.EventsMaxAge = cmp.Or(c.EventsMaxAge, time.Hour)
	c.EventsMaxBytes = cmp.Or(c.EventsMaxBytes, 1<<30)
	c.ResultsMaxAge = cmp.Or(c.ResultsMaxAge, 24*time.Hour)
	c.ResultsMaxBytes = cmp.Or(c.ResultsMaxBytes, 2<<30)
	c.DeadMaxAge = cmp.Or(c.DeadMaxAge, 14*24*time.Hour)
	c.WorkerTTL = cmp.Or(c.WorkerTTL, 10*time.Second)
	c.CancelTTL = cmp.Or(c.CancelTTL, max(14*24*time.Hour, c.ResultsMaxAge))
	c.LockTTL = cmp.Or(c.LockTTL, 10*time.Second)
	c.MaxBodiesBytes = cmp.Or(c.MaxBodiesBytes, 4<<30)
	c.BodiesMaxAge = cmp.Or(c.BodiesMaxAge, max(14*24*time.Hour, c.DeadMaxAge))
	c.MaxBatchesBytes = cmp.Or(c.MaxBatchesBytes, 512<<20)
	c.BatchesMaxAge = cmp.Or(c.BatchesMaxAge, 30*24*time.Hour)
	return c
}

// The shortest times that a broker keeps: it refuses ages below 100 ms, and a lease below that
// leaves a worker no time to renew it. A body that goes before its job makes that fail.
const (
	minDuration  = 100 * time.Millisecond
	minBodiesAge = 24 * time.Hour
)

func (c Config) validate() error {
	var errs []error
	fault := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf(field+" "+format, args...))
	}
	if c.Replicas < 1 || c.Replicas > 5 {
		fault("Replicas", "is %d; want 1 to 5", c.Replicas)
	}
	if c.Storage != jetstream.FileStorage && c.Storage != jetstream.MemoryStorage {
		fault("Storage", "is %d; want file or memory", c.Storage)
	}
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"MaxJobs", c.MaxJobs}, {"MaxBytes", c.MaxBytes}, {"MaxJobsPerTenant", c.MaxJobsPerTenant}, {"MaxJobBytes", int64(c.MaxJobBytes)},
		{"EventsMaxBytes", c.EventsMaxBytes}, {"ResultsMaxBytes", c.ResultsMaxBytes}, {"MaxBodiesBytes", c.MaxBodiesBytes}, {"MaxBatchesBytes", c.MaxBatchesBytes},
	} {
		if f.value < 1 {
			fault(f.name, "is %d; want at least 1", f.value)
		}
	}
	for _, f := range []struct {
		name  string
		value time.Duration
	}{
		{"DuplicateWindow", c.DuplicateWindow}, {"Lease", c.Lease}, {"EventsMaxAge", c.EventsMaxAge}, {"ResultsMaxAge", c.ResultsMaxAge},
		{"DeadMaxAge", c.DeadMaxAge}, {"WorkerTTL", c.WorkerTTL}, {"CancelTTL", c.CancelTTL}, {"LockTTL", c.LockTTL}, {"BatchesMaxAge", c.BatchesMaxAge},
	} {
		if f.value < minDuration {
			fault(f.name, "is %s; want at least %s", f.value, minDuration)
		}
	}
	if c.BodiesMaxAge < minBodiesAge {
		fault("BodiesMaxAge", "is %s; want at least %s", c.BodiesMaxAge, minBodiesAge)
	}
	return errors.Join(errs...)
}

// Fit returns c with its defaults filled in and, if need be, its byte bounds halved until the
// streams of so many models fit into store bytes. A broker sets the whole bound of a stream aside
// when it is created, so [Ensure] fails on a server whose store is smaller than their sum.
func (c Config) Fit(models int, store int64) Config {
	c = c.withDefaults()
	const floor = 1 << 20
	bodiesFloor := min(c.MaxBodiesBytes, 64<<20) // less would not hold a few of the largest
	batchesFloor := min(c.MaxBatchesBytes, 4<<20)
	for c.reserved(models) > store && min(c.MaxBytes, c.EventsMaxBytes, c.ResultsMaxBytes) > floor {
		c.MaxBytes /= 2
		c.EventsMaxBytes /= 2
		c.ResultsMaxBytes /= 2
		c.MaxBodiesBytes = max(c.MaxBodiesBytes/2, bodiesFloor)
		c.MaxBatchesBytes = max(c.MaxBatchesBytes/2, batchesFloor)
	}
	return c
}

// reserved is how many bytes the broker sets aside for the streams of so many models.
func (c Config) reserved(models int) int64 {
	return int64(models)*c.MaxBytes + c.EventsMaxBytes + c.ResultsMaxBytes + c.MaxBodiesBytes + 2*c.MaxBatchesBytes
}

// Difference is a setting of an existing stream, consumer or bucket that is not as configured.
type Difference struct {
	// Object is the stream, or stream/consumer.
	Object string
	Field  string
	Have   string
	Want   string
}

func (d Difference) String() string {
	return fmt.Sprintf("%s: %s is %s, configured %s", d.Object, d.Field, d.Have, d.Want)
}

// Sentinels that callers branch on.
var (
	// ErrNotFound says that a result, tombstone, event, dead letter or body is not stored.
	ErrNotFound = errors.New("not found")
	// ErrResultExists says that another writer has already ended the job.
	ErrResultExists = errors.New("the job already has a result")
	// ErrBodyExists says that another body is stored for the job, and is kept.
	ErrBodyExists = errors.New("another body is stored for this job")
	// ErrBadBody says that what is stored for a job's body is not a body, or not all of it.
	ErrBadBody = errors.New("the stored body is damaged")
	// ErrNoJetStream says that the server, or the account, has no JetStream.
	ErrNoJetStream = errors.New("JetStream is not enabled on this server or account")
	// ErrNotSetUp says that a stream that the queue needs is not there: nobody has called [Ensure] on this server.
	ErrNotSetUp = errors.New("the queue is not set up on this server")
	// ErrOtherMessage says that a job's events are those of another message with the same id.
	ErrOtherMessage = errors.New("another message with this id is being run")
	// ErrBadRecord says that a job's record holds messages that are not events of that job. What could be read is returned with it.
	ErrBadRecord = errors.New("the record holds messages that are not events of this job")
	// ErrRecordTooLarge says that a job's record is above [MaxRecordBytes].
	ErrRecordTooLarge = errors.New("the record is too large to be read")
)
