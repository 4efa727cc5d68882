package conversation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"

	"github.com/redis/go-redis/v9"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/embedded"
)

// One turn, as a worker does it.
func Example() {
	ctx := context.Background()
	srv, err := embedded.StartRedis(ctx, embedded.RedisConfig{InMemory: true})
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()
	rdb := redis.NewClient(&redis.Options{Addr: srv.Addr()})
	defer rdb.Close()
	store, err := conversation.New(rdb, conversation.Config{})
	if err != nil {
		log.Fatal(err)
	}
	session, err := store.Create(ctx, conversation.NewSession{Tenant: "acme", User: "zoe", System: "Be brief."})
	if err != nil {
		log.Fatal(err)
	}

	for i, question := range []string{"What is 2+2?", "And 3 more?"} {
		begun, err := store.Begin(ctx, session.Ref, conversation.BeginTurn{Job: fmt.Sprintf("job%d", i)})
		if err != nil {
			log.Fatal(err)
		}
		window := conversation.Window{MaxModelLen: 4096, MaxTokens: 256}
		path, err := store.Path(ctx, session.Ref, window.Budget(begun.Leaf(), begun.Branch))
		if err != nil {
			log.Fatal(err)
		}
		user := conversation.Text("user", question)
		prompt, err := window.Build(ctx, path, []json.RawMessage{user.Body})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(len(prompt.Messages), "messages for the engine")

		reply := conversation.Text("assistant", fmt.Sprint(4+3*i)) // the engine's
		turn, err := store.Append(ctx, session.Ref, conversation.NewTurn{
			Job: fmt.Sprintf("job%d", i), Parent: begun.Parent, Branch: begun.Branch, Messages: []conversation.Message{user, reply},
		})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("head", turn.Head, "revision", turn.Rev)
	}
	// Output:
	// 2 messages for the engine
	// head t-job0 revision 1
	// 4 messages for the engine
	// head t-job1 revision 2
}
