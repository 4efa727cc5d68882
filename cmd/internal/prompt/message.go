package prompt

import "strings"

const quotes = `"""`

// message is a message as far as it has been read.
type message struct {
	lines  []string
	size   int  // in bytes, of the lines that were dropped as well
	begun  bool // there is a line
	quoted bool // it goes on to the closing quotes
	// dropped is set if the message is too long: it is read to its end, which would otherwise be a message of its own, or a command.
	dropped *TooLongError
}

// drop gives the message up. Its first fault counts.
func (m *message) drop(why *TooLongError) {
	if m.dropped == nil {
		m.dropped = why
	}
	m.lines = nil
}

// add takes a line in and reports whether the message goes on. Of a line that was cut the end is not known.
func (m *message) add(text string, pasted, cut bool) (goesOn bool) {
	if !m.begun && strings.HasPrefix(strings.TrimLeft(text, " \t"), quotes) {
		_, text, _ = strings.Cut(text, quotes)
		m.quoted = true
	}
	m.begun = true
	switch body, closed := strings.CutSuffix(strings.TrimRight(text, " \t"), quotes); {
	case m.quoted && closed && !cut:
		text = body
	case m.quoted:
		goesOn = true
	case pasted: // in which a backslash is text
		goesOn = true
	case !cut:
		text, goesOn = strings.CutSuffix(text, `\`)
	}
	if m.dropped == nil {
		m.lines = append(m.lines, text)
	}
	return goesOn
}

func (m *message) text() string {
	text := strings.Join(m.lines, "\n")
	if m.quoted {
		return strings.Trim(text, "\n")
	}
	return strings.TrimRight(text, "\n")
}
