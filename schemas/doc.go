// Package schemas is everything that crosses the queue: the messages, the subjects they travel
// on, and the names of the streams, consumers and buckets that hold them. It imports nothing else
// of hxp, and nothing else of hxp spells a subject.
//
// A [Job] is published on [JobSubject] and stored in the model's work queue. A worker answers with
// [Event] messages on [EventSubject]; together they are the job's stream: in order, without gaps,
// ending once. The one [Result] of a job is stored on [ResultSubject], and a job that is given up
// leaves a [DeadLetter] on [DeadSubject].
//
// # Compatibility
//
// Messages are JSON. Within v1 fields are only added; readers ignore those they do not know. The
// JSON Schemas of all messages are embedded and returned by [Schema]; [AsyncAPI] describes where
// they travel, for people and for generators of clients in other languages.
//
// # Encoding
//
// There are many events and few of everything else, so [Event] has an encoder and a decoder of its
// own: [Event.Append] and [Event.Decode], which read and write what encoding/json does. A request
// body and the engine's choices go through byte for byte: [Job.Append] for the one, [Event.Append]
// for the other.
package schemas
