//go:build vllm && linux

package realvllm_test

import "testing"
func (b *bed) shapes(t *testing.T) {}
