package interop

import (
	"bytes"
	"os"
	"testing"
)

// A binary as it is shipped has no failpoints.
func TestNoFailpoints(t *testing.T) {
	b, err := os.ReadFile(world.bin)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"SEALTAP_FAILPOINT", "faultvfs"} {
		if bytes.Contains(b, []byte(text)) {
			t.Errorf("the binary holds %q", text)
		}
	}
}
