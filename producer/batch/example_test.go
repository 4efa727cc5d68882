package batch_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/hxp-enterprise/hxp/producer/batch"
)

func ExampleValidate() {
	const input = `{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"model":"phi3","prompt":"Once upon a time"}}
{"custom_id":"b","method":"POST","url":"/v1/completions","body":{"model":"phi3","prompt":"It was","stream":true}}
{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"model":"phi3","prompt":"The end"}}
`
	found, err := batch.Validate(context.Background(), strings.NewReader(input), batch.Rules{Models: []string{"phi3"}}, func(f *batch.LineError) error {
		fmt.Println(f)
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d of %d lines are valid\n", found.Valid, found.Lines)
	// Output:
	// line 2: body.stream is true; want false or none: a batch is answered in whole
	// line 3: custom_id is that of line 1; want one of its own for each line
	// 1 of 3 lines are valid
}
