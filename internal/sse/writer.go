package sse

import (
	"fmt"
	"net/http"
)

// Append appends one event that carries data to dst. Data is split at its line ends (LF, CR LF
// or CR), which a reader gives back as LF.
func Append(dst, data []byte) []byte {
	for {
		i := lineEnd(data)
		dst = append(dst, "data: "...)
		if i < 0 {
			dst = append(dst, data...)
			return append(dst, "\n\n"...)
		}
		dst = append(append(dst, data[:i]...), '\n')
		if data[i] == '\r' && i+1 < len(data) && data[i+1] == '\n' {
			i++
		}
		data = data[i+1:]
	}
}

// Writer sends events as an HTTP response. It is not safe for concurrent use.
type Writer struct {
	w    http.ResponseWriter
	ctrl *http.ResponseController
	buf  []byte
}

// NewWriter sets the headers of an event stream on w. They are sent with the first event, or by
// [Writer.Frames] without any.
func NewWriter(w http.ResponseWriter) *Writer {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	// nginx holds a response back otherwise.
	h.Set("X-Accel-Buffering", "no")
	return &Writer{w: w, ctrl: http.NewResponseController(w)}
}

// Data sends one event and flushes it.
func (w *Writer) Data(data []byte) error {
	w.buf = Append(w.buf[:0], data)
	return w.Frames(w.buf)
}

// Comment sends a comment, which readers ignore: it keeps a quiet connection open.
func (w *Writer) Comment(text string) error {
	w.buf = append(w.buf[:0], ':', ' ')
	for _, c := range []byte(text) {
		if c == '\n' || c == '\r' {
			c = ' ' // a line end would turn the rest into a field
		}
		w.buf = append(w.buf, c)
	}
	w.buf = append(w.buf, "\n\n"...)
	return w.Frames(w.buf)
}

// Frames sends events already made by [Append], all with one flush. Without any it sends the
// headers alone.
func (w *Writer) Frames(frames []byte) error {
	if len(frames) > 0 {
		if _, err := w.w.Write(frames); err != nil {
			return fmt.Errorf("write event: %w", err)
		}
	}
	if err := w.ctrl.Flush(); err != nil {
		return fmt.Errorf("flush event: %w", err)
	}
	return nil
}
