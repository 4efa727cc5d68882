package vllm_test

import (
	"context"
	"fmt"
	"net/http/httptest"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

func Example() {
	// In earnest, this is `vllm serve`.
	server := httptest.NewServer(fake{version: "0.31.0", models: vllmModels, routes: generation(stream(
		`{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"prompt_token_ids":[1,22,9]}`,
		`{"choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null,"token_ids":[15]}]}`,
		`{"choices":[{"index":0,"delta":{"content":" there"},"finish_reason":"stop","token_ids":[16,2]}]}`,
		`{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":3,"total_tokens":6}}`,
		`[DONE]`,
	))})
	defer server.Close()

	engine, err := vllm.New(server.URL, vllm.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer engine.Close()
	for delta, err := range engine.Generate(context.Background(), &workers.Request{
		ID:       "job-1",
		Attempt:  1,
		Endpoint: schemas.ChatCompletions,
		Body:     []byte(`{"messages":[{"role":"user","content":"Hi"}],"max_tokens":8}`),
	}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		for _, choice := range delta.Parts {
			fmt.Printf("%q %q\n", choice.Text, choice.FinishReason)
		}
		if delta.Usage != nil {
			fmt.Println(delta.Usage.TotalTokens, "tokens")
		}
	}
	// Output:
	// "" ""
	// "Hello" ""
	// " there" "stop"
	// 6 tokens
}
