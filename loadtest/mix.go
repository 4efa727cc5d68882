package loadtest

import "math/rand/v2"

// pick chooses by weight.
func pick(list []Weighted, r *rand.Rand) string {
	if len(list) == 1 {
		return list[0].Name
	}
	var total float64
	for _, w := range list {
		total += w.share()
	}
	at := r.Float64() * total
	for _, w := range list {
		if at -= w.share(); at < 0 {
			return w.Name
		}
	}
	return list[len(list)-1].Name // what rounding has left over
}

func (w Weighted) share() float64 {
	if w.Weight == 0 {
		return 1
	}
	return w.Weight
}
