package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
)

// The formats of -o.
const (
	formatTable  = "table"
	formatJSON   = "json"
	formatNDJSON = "ndjson"
)

// output is where data and progress go.
type output struct {
	data, progress io.Writer
	format         string
	color          bool
}

// newOutput colours what goes to a terminal, unless NO_COLOR is set.
func newOutput(data, progress io.Writer, environ []string) output {
	plain := slices.ContainsFunc(environ, func(kv string) bool {
		return strings.HasPrefix(kv, "NO_COLOR=") && kv != "NO_COLOR=" || kv == "TERM=dumb"
	})
	return output{data: data, progress: progress, color: !plain && terminal(data)}
}

// terminal reports whether w, or r, is one.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (o output) check() error {
	if slices.Contains([]string{formatTable, formatJSON, formatNDJSON}, o.format) {
		return nil
	}
	return fmt.Errorf("%w: --output %q is none of table, json, ndjson", app.ErrUsage, o.format)
}

// say writes progress. Nobody is left to tell if that fails.
func (o output) say(format string, args ...any) { _, _ = fmt.Fprintf(o.progress, format, args...) }

// write writes data as it is.
func (o output) write(text string) error {
	_, err := io.WriteString(o.data, text)
	return err
}

// show writes what a model or a user has said: as it is, unless it would steer a terminal.
func (o output) show(text string) error {
	if terminal(o.data) {
		text = app.Printable(text)
	}
	return o.write(text)
}

// one writes a value: indented as json, on a line as ndjson, and by itself as a table.
func (o output) one(v any, table func() error) error {
	switch o.format {
	case formatTable:
		return table()
	case formatNDJSON:
		return json.NewEncoder(o.data).Encode(v)
	default:
		e := json.NewEncoder(o.data)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
}

// list writes values: one array as json, a line each as ndjson, rows under a header as a table.
func list[T any](o output, values []T, header string, row func(T) string) error {
	switch o.format {
	case formatTable:
		t := tabwriter.NewWriter(o.data, 2, 8, 2, ' ', 0)
		_, _ = fmt.Fprintln(t, header)
		for _, v := range values {
			_, _ = fmt.Fprintln(t, row(v))
		}
		return t.Flush() // reports the first failed write of all
	case formatNDJSON:
		e := json.NewEncoder(o.data)
		for _, v := range values {
			if err := e.Encode(v); err != nil {
				return err
			}
		}
		return nil
	default:
		if values == nil {
			values = []T{}
		}
		return o.one(values, nil)
	}
}

// row joins the cells of a table's row.
func row(cells ...any) string {
	texts := make([]string, len(cells))
	for i, c := range cells {
		texts[i] = fmt.Sprint(c)
	}
	return strings.Join(texts, "\t")
}

// paint colours text: 31 red, 32 green, 33 yellow.
func (o output) paint(color int, text string) string {
	if !o.color {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", color, text)
}

// The colours of paint that are none.
const (
	bold  = 1
	faint = 2
)

// strong makes text stand out where there are colours.
func (o output) strong(text string) string { return o.paint(bold, text) }
