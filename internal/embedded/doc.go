// Package embedded runs a NATS server with JetStream and a Redis beside the program, so that hxp
// needs nothing installed. It is for one machine: both listen on the loopback interface only, and
// neither asks for a password. Roles that are to run on several machines use servers of their own.
//
// [StartNATS] runs the server inside the process; what it stores outlives it. [StartRedis] starts
// redis-server as a child if there is one, and otherwise an in-process stand-in that keeps
// everything in memory.
package embedded
