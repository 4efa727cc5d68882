package loadtest_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/hxp-enterprise/hxp/loadtest"
)

// FuzzDatasets reads what a file of any form may hold: an error or prompts, and none that a request cannot be made of.
func FuzzDatasets(f *testing.F) {
	for _, seed := range []string{
		`{"turns":["a","b"]}`, `{"url":"/v1/completions","body":{"prompt":"x"}}`, `{"url":"/v1/chat/completions","body":{"messages":null}}`,
		`[{"conversations":[{"from":"human","value":"a question of some length"},{"from":"gpt","value":"an answer of some length"}]}]`, "[", "{\n{", "\xff",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, read := range []func(io.Reader) (loadtest.Dataset, error){
			func(in io.Reader) (loadtest.Dataset, error) { return loadtest.MTBench(in, 1, false) },
			func(in io.Reader) (loadtest.Dataset, error) { return loadtest.BatchFile(in, 1) },
			func(in io.Reader) (loadtest.Dataset, error) { return loadtest.ShareGPT(in, 1, true) },
		} {
			d, err := read(bytes.NewReader(data))
			if err != nil {
				continue
			}
			for n := range 3 {
				if _, err := loadtest.Body(d, n); err != nil {
					t.Fatalf("%s: request %d: %v", d.Name(), n, err)
				}
			}
		}
	})
}
