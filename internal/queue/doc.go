// Package queue is the only place that declares streams, consumers and key-value buckets, and that
// knows how a job's record, result and tombstone are stored in them. Producers and workers use it;
// what crosses it is defined by package schemas.
//
// [Ensure] creates what is missing and reports, but never changes, what differs; [Apply] changes it
// when an operator asks. [Pause] holds a class of jobs back at the broker.
//
// # Streams
//
// A work queue for each model (discard new, capped per model and per tenant, de-duplicated by job
// id), the event record (limits, short age, no acks: it listens to the same core publishes that
// clients receive live), the results (one message per job, first writer wins) and the dead letters.
// Three buckets hold the live workers, the cancel requests and the locks, and an object store the
// bodies that are too large for a message.
//
// Batches that are left to the cluster have a bucket for their states, an object store for their
// inputs, and a stream for the records of their lines, in which a batch is one subject and each
// write is conditional on the one before. They are kept on file for 30 days, whatever else is not.
//
// # Reading
//
// Records, results and tombstones are read with direct gets: one round trip, no consumer to create
// or to leave behind, and any replica may answer. A replica may be a moment behind its leader, so
// what must be true is decided by writes: [PutResult] is the fence, not [GetResult].
//
// # Asking again
//
// A request that a dying leader had in hand is never answered. Every request is therefore asked
// again after a second, then two, for as long as its context lives; writes carry an id or an
// expectation that makes a second copy harmless.
package queue
