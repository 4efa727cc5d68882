// Package report keeps the results of a load test and shows them: a folder of files, one page of HTML without scripts
// or anything from the network, and tables in Markdown.
//
//	summary.json      the figures, in vllm bench serve's names and more: [loadtest.Summary]
//	requests.jsonl    a line for each request: [loadtest.Record]
//	environment.json  where and with what: [loadtest.Environment]
//	report.html       the same for the eye
//
// [Save] writes the folder, but for requests.jsonl, which is written while the requests end; [Load] reads it again.
// The same figures give the same bytes.
package report
