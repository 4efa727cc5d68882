package schematest_test

import (
	"testing"

	"github.com/hxp-enterprise/hxp/internal/schematest"
)

// failures is a test that counts what is reported to it.
type failures struct {
	testing.TB
	n int
}

func (f *failures) Helper()               {}
func (f *failures) Errorf(string, ...any) { f.n++ }

func TestValidate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, data string
		want       int
	}{
		{"job", `{"body":{}}`, 0},
		{"job", `{"body":1}`, 1},
		{"job", `{"body":{}`, 1},
		{"jobs", `{"body":{}}`, 1},
		{"result", `{}`, 1},
	} {
		f := &failures{TB: t}
		schematest.Validate(f, tt.name, []byte(tt.data))
		if f.n != tt.want {
			t.Errorf("Validate(%s, %s) reported %d failures, want %d", tt.name, tt.data, f.n, tt.want)
		}
	}
}
