// Package moderation is the [workers.Moderator]: policies that say what may reach an engine, and what
// of its replies may be shown.
//
// In the life of a job it is asked twice: by admission, about the texts that the job brings, and for every
// delta of the reply, which goes no further than the policy has settled. It runs in the worker, so that
// it holds for every producer and for batch jobs.
//
// # Policies
//
// A [Config] names the stages it checks, input and output, and what it looks for: [Rules], in the text
// itself, and then an [Endpoint], which is asked about what the rules let through. It either
// enforces what it finds or only counts it (Audit). An [Assignment] says which policy holds where.
//
// # Rules
//
// Phrases are compared by units: runes after case folding, with any white space as one space, without
// characters that cannot be seen: format and control characters, and what Unicode calls ignorable. All of them are looked for at once, by the automaton of Aho and
// Corasick, at the same cost for one and for thousands.
//
// Expressions have RE2's syntax. Package regexp cannot say whether a text that goes on may still match,
// so the same compiled program is run by a simulation that can. Of several matches the leftmost
// counts, and of those with one beginning the longest. The longest match has a declared
// length: beyond it nothing is looked for, and so nothing is held back.
//
// Personal data (email, phone, credit_card, iban, ipv4, ipv6, us_ssn) is masked: replaced by [EMAIL] and so on.
// A check digit or a range decides where a pattern alone would find too much. Masks that overlap become one.
//
// # Hold-back
//
// A text comes in pieces. What is settled is everything before the beginning of the earliest match
// that may still come to be, so a text without one flows as it comes, and no byte of a match is
// ever shown. It is looked at rune by rune and by all rules in step: what is let through does not depend on the
// pieces. Text that an earlier attempt has sent is context: a match that begins in it is found.
//
// An endpoint is asked about a piece of Chunk bytes with Overlap bytes of what was before, while
// the next piece comes together; nothing of a piece is shown before the answer. It sees the text masked.
//
// # Failures
//
// A request to an endpoint is bounded in time and size, and repeated a few times. After that FailOpen
// decides. Errors, logs and metrics name policies and categories; of a text there is a digest under a
// key that is made anew in every process.
//
// # Limits
//
// Only text is looked at, not images or audio. Phrases are compared as they are spelled: a letter with a
// combining accent is not the letter that has it. Escapes inside the arguments of a tool call are not
// undone. The alternatives that come with log probabilities cannot be held back with a text, so a
// worker does not ask the engine for them while a policy is enforced on replies.
package moderation
