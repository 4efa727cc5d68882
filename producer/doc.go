// Package producer is the Go SDK of hxp: it submits a job, follows its stream, re-attaches to it
// from anywhere, fetches its result and cancels it.
//
// A [Client] belongs to one tenant and costs a connection two subscriptions, however many jobs it
// has open. [Client.Submit] returns when the queue has stored the job: what was accepted is
// answered, by whichever worker lives. The [Stream] it returns yields the job's events, and
// [Stream.Result] the one record of how the job ended.
//
//	client, err := producer.New(nc, producer.Config{Tenant: "acme"})
//	...
//	stream, err := client.Submit(ctx, schemas.Job{Model: "phi3", Body: body})
//	...
//	defer stream.Close()
//	for text, err := range stream.Text(ctx) {
//		...
//	}
//
// # Large bodies
//
// A body of more than [Config.InlineBytes] does not fit the message of its job well. Submit stores it in
// an object store first, and the job refers to it. It is deleted when the job has ended: by the worker,
// or by whoever cancels the job while it is queued. One above [Config.MaxBodyBytes] is refused as
// payload_too_large. If one id is submitted with two bodies, the first stays.
//
// # Order
//
// A stream is in order, has no gaps and ends once. Events arrive as plain NATS messages, which may
// be lost, while JetStream records the same messages. A reader drops what it has seen and what an
// older attempt sent late; it fills a gap from the record, and ends with [ErrGap] where the record
// does not have it either. Silence makes it look at the record and at the Result, so that a lost
// last event holds nobody up.
//
// A worker that has lost its lease without knowing may send events until its next fence, and a live
// reader cannot tell them from good ones at that moment. If the attempt that replaced it begins
// before the last event shown, the stream ends with [ErrConflict]; reading it again with
// [Client.Follow] from 0 gives the true one, since the record shows both attempts. A Restarted event
// needs no such care: it tells the reader to drop the earlier text anyway. For the same reason what
// was lost before it is not looked for: it comes at once, with the Seq it has. A stream that has shown
// text of another attempt than the one that the Result is of ends with [ErrConflict] too.
//
// # Slow readers
//
// Each stream holds at most [Config.Buffer] live events of [Config.BufferBytes] in all. A reader that falls further behind loses live
// events and gets them from the record; it costs no other stream anything.
//
// # Queued or unknown
//
// A job that waits in the queue has neither record nor Result, so nothing tells it from one that
// was never submitted. [Client.Follow] therefore waits, until its context ends or for
// [Config.UnknownAfter]; [Client.Status] answers at once, with [ErrUnknownJob].
//
// # Shutdown
//
// [Stream.Close] is not a cancel: the job goes on. [Client.Close] ends all open streams with
// [ErrClosed], after what has already arrived, and leaves the connection to its owner.
package producer
