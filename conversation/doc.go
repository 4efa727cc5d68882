// Package conversation keeps chat sessions in Redis: as trees of turns that cannot be corrupted, with
// the window of each that a model is shown.
//
// A [Store] holds sessions. A worker that runs a job with a session
//
//  1. calls [Store.Begin]: is the session there, has this job's turn been committed already, does the
//     revision fit, is another turn in flight? It says which turn is answered;
//  2. calls [Store.Path]: the newest turns up to that one, as many as a budget allows;
//  3. calls [Window.Build]: the messages for the engine, out of the path and the job's new messages,
//     and what was left out;
//  4. generates, and calls [Store.Append]: the new messages and the reply become one turn;
//     or [Store.Abort], if there is nothing to keep.
//
// Each of Begin, Path and Append is one round trip and one script, so no two writers meet in between.
//
// # Tree
//
// A [Turn] is what one job added: the new messages, several where tools answered, and the reply. It knows its parent and
// nothing else; children are derived ([Tree.Children]), so there is no second record to disagree. Its
// id is the job's ([TurnID]): a job that is delivered again finds its turn and adds none. A turn
// with the parent of another is a branch: to regenerate is to send the same messages with the same
// parent, to edit is to send others. Turns are ordered by their sequence number, never by time.
//
// Heads are named turns. Append moves a head on if the turn finished and its parent was that head;
// otherwise the turn is a sibling that nothing points to, until [Store.SetHead] does. One head is
// active: a job that names no parent answers it. [Store.SetHead] makes a named branch in the same session; [Store.Fork]
// copies one path into a session of its own.
//
// Only finished turns are history. One that was interrupted, blocked or cancelled may be kept, but
// it is never a head and never a parent; if its job finishes later, the finished turn takes its place.
//
// # Order
//
// Two turns at once branch, and nothing is lost. With [BeginTurn.Serialize] the second is refused
// with a [*ConflictError] while the first is in flight. [NewTurn.ExpectRev] refuses a turn if the
// conversation has moved on: its revision rises with each finished turn, each move of a head and each
// change of the system prompt, and with nothing else.
//
// # Keys
//
// A session has seven keys, which share a hash tag and so a slot of a cluster; every script that
// writes gives all of them the same time to live. meta: fields and counters. idx: a line for each turn. msgs: the bodies.
// log: turns by age. pend: turns in flight. sum: summaries. heads: named turns. The list of a user's
// sessions lives elsewhere, is brought up to date after the session, and repaired when it is read.
//
// # Bounds
//
// A session holds [Config.MaxMessages] and [Config.MaxBytes]. Beyond them bodies are dropped, oldest
// first and a tenth more than needed, and [Appended] says so; beyond MaxMessages turns, those without
// a body are forgotten, with the branches that end there. A path ends at the first turn without a body. A window never deletes anything.
//
// # Deletion
//
// [Store.Delete] leaves a tombstone that every script looks at, so a turn in flight cannot bring a
// session back, nor can Create, for [Config.TombstoneTTL].
//
// # When Redis is away
//
// Errors that another try may not meet match [ErrUnavailable]. Every call on a session may be repeated: it
// does no more the second time. A Create or a Fork that is repeated without an id makes a second session. [WireError]
// turns any error of this package into a job's.
package conversation
