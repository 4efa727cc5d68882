// Package sse reads and writes server-sent events: what an engine streams to a worker and a
// gateway to a browser.
//
// Only the data of an event is kept. hxp's streams carry JSON in it and number their events
// themselves, so the fields event, id and retry are read over.
//
// # Bounds
//
// A [Reader] never holds more than one event, and refuses an event that is longer than it was told
// to accept. The end of a stream inside an event is an error of its own, so a cut connection is
// never taken for the end of a reply.
package sse
