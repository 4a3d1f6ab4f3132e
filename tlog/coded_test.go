package tlog

import "testing"

func TestCodedCache(t *testing.T) {
	c := newCodedCache(100)
	has := func(list ...uint64) {
		t.Helper()
		used := 0
		for _, b := range list {
			got, ok := c.get(b)
			if !ok || got.n != b {
				t.Fatalf("bundle %d is gone", b)
			}
			used += cap(got.body)
		}
		if c.used != used || len(c.of) != len(list) || c.list.Len() != len(list) {
			t.Errorf("%d bundles of %d bytes are kept, %d and %d are counted", len(list), used, len(c.of), c.used)
		}
	}
	c.put(&coded{n: 1, body: make([]byte, 40)})
	c.put(&coded{n: 2, body: make([]byte, 40)})
	c.put(&coded{n: 2, body: make([]byte, 40)}) // made twice
	has(2, 1)
	c.put(&coded{n: 3, body: make([]byte, 10, 40)}) // 2 was used before 1
	has(1, 3)
	c.put(&coded{n: 4, body: make([]byte, 101)}) // never fits
	has(1, 3)
	c.put(&coded{n: 5, body: make([]byte, 100)})
	has(5)
}
