package app

import (
	"errors"
	"slices"
)

// stops are the parts that have been started, so that they can be stopped in reverse order.
type stops []func() error

func (s *stops) push(stop func() error) { *s = append(*s, stop) }

// run stops everything, and everything even if something fails.
func (s stops) run() error {
	var errs []error
	for _, stop := range slices.Backward(s) {
		errs = append(errs, stop())
	}
	return errors.Join(errs...)
}
