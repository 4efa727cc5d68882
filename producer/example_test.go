package producer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

func Example() {
	nc, stop := exampleServer() // a broker, and a worker that serves the model phi3
	defer stop()

	client, err := producer.New(nc, producer.Config{Tenant: "acme"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	stream, err := client.Submit(ctx, schemas.Job{
		Model: "phi3",
		Body:  json.RawMessage(`{"messages": [{"role": "user", "content": "Say hello."}], "stream": true}`),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer stream.Close()
	for text, err := range stream.Text(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%q\n", text)
	}
	result, err := stream.Result(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Status, result.Text)
	// Output:
	// "Hello"
	// " there."
	// completed Hello there.
}

// exampleServer stands for a running hxp.
func exampleServer() (*nats.Conn, func()) {
	dir, err := os.MkdirTemp("", "hxp-example")
	check(err)
	server, err := embedded.StartNATS(embedded.Config{Dir: dir, Listen: "127.0.0.1:0"})
	check(err)
	nc, err := server.Connect()
	check(err)
	js, err := jetstream.New(nc)
	check(err)
	_, err = queue.Ensure(context.Background(), js, []string{"phi3"}, small())
	check(err)
	consumers, err := queue.Consumers(context.Background(), js, "phi3")
	check(err)
	worker, err := consumers[schemas.Standard].Consume(func(msg jetstream.Msg) {
		job, err := schemas.DecodeJob(msg.Subject(), msg.Data(), "")
		check(err)
		events := []schemas.Event{{Kind: schemas.Started}, delta("Hello"), delta(" there."), {Kind: schemas.Done}}
		check(queue.PutResult(context.Background(), js, &schemas.Result{
			ID: job.ID, Model: job.Model, Class: job.Class, Tenant: job.Tenant, Endpoint: job.Endpoint,
			Status: schemas.StatusCompleted, Text: "Hello there.", Attempts: 1, Finished: time.Now(), LastSeq: uint64(len(events)),
		}))
		for i, e := range events {
			e.ID, e.Seq, e.Attempt = job.ID, uint64(i+1), 1
			check(nc.Publish(job.ReplyTo, e.Append(nil)))
		}
		check(msg.Ack())
	})
	check(err)
	return nc, func() {
		worker.Stop()
		<-worker.Closed()
		nc.Close()
		server.Close()
		check(os.RemoveAll(dir))
	}
}

func check(err error) {
	if err != nil {
		log.Panic(err)
	}
}
