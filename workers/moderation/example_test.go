package moderation_test

import (
	"context"
	"fmt"

	"github.com/hxp-enterprise/hxp/workers/moderation"
)

func Example() {
	m, err := moderation.New(map[string]moderation.Config{
		"strict": {Rules: moderation.Rules{Phrases: []string{"secret plan"}, WholeWords: true, Personal: []string{"email"}}},
	}, moderation.Assignment{Default: "strict"})
	if err != nil {
		fmt.Println(err)
		return
	}
	reply := m.Policy("phi3", "acme").Output(context.Background(), "", func() {})
	defer reply.Stop()
	text := reply.Text("")
	for _, delta := range []string{"Ask ann@", "mail.example ", "about the sec", "ret plan."} {
		text.Write([]byte(delta))
		r := text.Ruling()
		fmt.Println(r.Settled, r.Edits, r.Blocked)
	}
	// Output:
	// 4 [] false
	// 21 [{4 20 [EMAIL]}] false
	// 31 [] false
	// 31 [] true
}
