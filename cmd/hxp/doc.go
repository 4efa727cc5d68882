// Command hxp is the whole of hxp in one binary: the roles (up, worker, sim), what producers do (run,
// chat, submit, watch, get, cancel), stored conversations (session), what operators do (dead, queue, workers, doctor), the load test (loadtest) and the configuration.
//
// Every sub-command has a file of its own that turns flags into a call of package app and its outcome
// into output. Data goes to stdout, everything else to stderr; exit.go maps errors to exit codes.
package main
