// Package batch is offline generation: files of requests in OpenAI's batch format, one JSON object on each line
// with custom_id, method, url and body, and files of replies in OpenAI's output format.
//
// [Validate] checks a file. [Run] runs one from a process of the caller's, like a Unix filter. [Client] leaves one
// to the cluster, where the [Coordinator] works on it that every worker process has.
//
//	run, err := batch.NewRun(js, batch.RunConfig{Tenant: "acme", Input: "in.jsonl", Output: "out.jsonl", Errors: "errors.jsonl"})
//	...
//	err = run.Run(ctx) // goes on where an earlier run of these files stopped
//
// # The life of a line
//
//  1. reader.go reads it, bounded; check.go finds what is wrong with it, by line, field, value and bound. A bad line
//     fails alone, and its fault goes into the error file.
//  2. feed.go reads a window ahead, and order.go has lines with the same system prompt follow each other in it, for the
//     engine's prefix cache. Lines that have a Result already are taken as they are.
//  3. share.go decides whose line is next, and budget.go how many lines of a model may be in the queue: twice the slots of
//     its live workers. The queue stays short, so that what has not been admitted can still be shared, ordered,
//     cancelled and paused. A paused queue ([queue.Pause]) admits none.
//  4. engine.go hands it to the queue as one job of the class batch. Its id is made of the batch, the line's number, its
//     bytes and how often it was retried ([JobID]), so that a second submission is the same job.
//  5. tracker.go hears of its end on the one subscription that all lines share, and reads Results hundreds at a time. An
//     event may be lost; every few seconds the Results of all lines in flight are asked for.
//  6. record.go makes its record, which goes into the output file or the error file as soon as it is there.
//
// # Going on
//
// The id of a record tells its batch, line, round and outcome. A file of records therefore says by itself which lines are
// done: nothing else has to be kept in step with it. A record is one write, so a writer that is killed, at any byte, leaves
// at most a torn record at the end, which is cut off; the Result of its line is stored for a day, and is taken again. A run
// into a file has a journal beside it, named .hxp, that says which batch it is, of which input; it is replaced
// as a whole. One process at a time writes an output.
//
// Nothing is generated twice as long as its Result is stored. A line that was in the queue when its run was interrupted goes
// on there.
//
// # Memory
//
// A batch needs a window of its input up to three times, the lines in flight without their bodies, and a few bits
// for each line of the file. The custom_ids of a validation are sorted on disk if they are many.
//
// # The cluster
//
// The input of a submitted batch is an object in the broker, its state a key that is changed by compare-and-set, and its
// records a log: messages on one subject, each appended on the condition that the one before is the last. Progress is
// what the log says, so a redelivery, or a Result that comes twice, counts once. A coordinator that was replaced and does not
// know it finds out at its next record, before that is stored. Whoever takes the lock reads the log and goes on; lines
// that ended meanwhile have their Results.
//
// Tenants share what is admitted by weight, in tokens; within a tenant the batch of the highest priority is next, and
// then the oldest. A batch whose window has passed ends as expired: what is running is cancelled, and the lines
// that are left fail as batch_expired. A cancelled one ends likewise, as batch_cancelled, after its running lines
// have finished or, if that was asked for, were cancelled. What was answered stays, and lines that failed can be tried
// again.
//
// # Errors
//
// What a worker or an engine answered is in the response of a record, whatever its status. The error of a record is for
// lines that nobody answered: invalid ones, with the line, the field and the bound, and those that were cancelled or expired.
package batch
