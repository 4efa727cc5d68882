package vllmsim

// output is the text of one choice on its way to the client.
type output struct {
	dec   *decoder
	hold  int    // characters that wait for a stop string
	held  []byte // decoded and not yet released
	total int    // bytes decoded in all
	// produced counts tokens.
	produced int
}

func newOutput(prompt []int, p *sampling) *output {
	return &output{dec: newDecoder(prompt, p.showSpecial), hold: p.holdBack()}
}

// push takes one token, with the end of the choice if it is the last.
func (o *output) push(id int, end *ending) {
	o.produced++
	if end != nil && end.silent {
		return
	}
	n := len(o.held)
	o.held = o.dec.push(o.held, id)
	o.total += len(o.held) - n
}

// release appends to dst the text that may be sent: with end, all that is left of it.
func (o *output) release(dst []byte, end *ending) []byte {
	var n int
	switch {
	case end == nil:
		n = release(o.held, o.hold)
	case end.cut >= 0:
		n = len(o.held) - (o.total - end.cut)
	default:
		n = len(o.held)
	}
	dst = append(dst, o.held[:n]...)
	o.held = append(o.held[:0], o.held[n:]...)
	return dst
}

// shown is the text of prompt as echo returns it.
func shown(prompt []int, p *sampling) []byte {
	d := newDecoder(nil, p.showSpecial)
	var text []byte
	for _, id := range prompt {
		text = d.push(text, id)
	}
	return text
}
