package export

import (
	"testing"
)

// FuzzParquet: a table of whatever content ends in rows or in an error.
func FuzzParquet(f *testing.F) {
	list := items(f)
	good := write(f, Parquet, list)
	f.Add(good)
	for at := range len(good) / 97 {
		bad := append([]byte(nil), good...)
		bad[at*97] ^= 0x40
		f.Add(bad)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 || len(data) < 4 || string(data[:4]) != "PAR1" {
			return
		}
		_, _, _ = read(t, data, list)
	})
}
