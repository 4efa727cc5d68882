// Package chaos is the failure suite: it runs hxp and its broker as real processes, kills, freezes
// and restarts them under load, and checks from outside what clients were promised. It holds tests
// only.
//
// `make chaos-short` and `make chaos` run it. The scenarios need the build tag chaos, since each of
// them takes seconds to minutes, and Linux, whose kernel ends the processes if the suite itself is killed.
//
// Of every scenario one line is printed:
//
//	jobs        submissions that the queue acknowledged
//	lost        events missing from streams, and jobs without a result
//	duplicated  events that came twice, and second results
//	repeated    (when the broker is killed) events that came again to the byte, dropped by every reader
//	after_end   (likewise) events of another attempt after the end, which no reader waits for
//	reordered   events behind their place
//	hung        jobs without an end
//	differing   streams or results that are not what an undisturbed engine writes
//	restarted   attempts that began again; with the simulated engine every reply can go on
//	recovery    the time from a fault to the next event of each job that it hit
package chaos
