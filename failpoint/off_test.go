//go:build !failpoints

package failpoint

import "testing"

// BenchmarkHere shows that a step costs nothing in a program as it is shipped.
func BenchmarkHere(b *testing.B) {
	for b.Loop() {
		Here("nothing")
	}
}

func BenchmarkNothing(b *testing.B) {
	for b.Loop() {
	}
}
