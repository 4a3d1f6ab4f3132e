package record

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// agree checks that Scan and Decode take the same bodies and read the same head.
func agree(t *testing.T, body []byte) {
	t.Helper()
	h, scanErr := Scan(body)
	r, decodeErr := Decode(body)
	if (scanErr == nil) != (decodeErr == nil) {
		t.Fatalf("Scan says %v, Decode says %v of %x", scanErr, decodeErr, body)
	}
	if scanErr == nil && h != (Head{r.Stream, r.GetSequence(), len(r.GetSealed())}) {
		t.Fatalf("Scan read %+v of the record %v", h, r)
	}
	b, briefErr := Brief(body)
	if (briefErr == nil) != (decodeErr == nil) {
		t.Fatalf("Brief says %v, Decode says %v of %x", briefErr, decodeErr, body)
	}
	if briefErr == nil && summary(b) != summary(r) {
		t.Fatalf("Brief read\n%s\nof\n%s", summary(b), summary(r))
	}
}

// summary is what exchanges are searched by.
func summary(r Record) string {
	q := r.GetRequest()
	return fmt.Sprintf("%v %d %d %x %s %q %q %q %q %q %x %d %x", r.Stream, r.GetSequence(), r.GetTime(), r.GetExchange(), r.Stage(),
		q.GetWho().GetId(), q.GetService(), q.GetMethod(), q.GetPath(), q.GetOperation().GetName(), q.GetTrace(), r.GetResponse().GetStatus(), r.GetBeacon().GetCheckpoint())
}

func scanSeeds(t testing.TB) [][]byte {
	var seeds [][]byte
	sealed := func(name string) *sealtapv1.SealedField {
		return &sealtapv1.SealedField{Field: name, Commitment: make([]byte, 32)}
	}
	full := sample(NewStream(keys.ID{1}))
	full.Sealed = append(full.Sealed, sealed("a"), sealed("b"))
	twice := sample(NewStream(keys.ID{2}))
	twice.Sealed = []*sealtapv1.SealedField{sealed("a"), sealed("a")}
	response := sample(NewStream(keys.ID{3}))
	response.About = &sealtapv1.Record_Response{Response: &sealtapv1.Response{Status: 404, Detail: "x", Headers: []*sealtapv1.Header{{Name: "a"}}}}
	beacon := sample(NewStream(keys.ID{4}))
	beacon.About = &sealtapv1.Record_Beacon{Beacon: &sealtapv1.Beacon{Checkpoint: []byte("checkpoint")}}
	for _, r := range []*sealtapv1.Record{full, twice, response, beacon, {}} {
		e, err := Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		seeds = append(seeds, e[headerSize:])
	}
	unknown := protowire.AppendVarint(protowire.AppendTag(seeds[0], 1000, protowire.VarintType), 7)
	badText := append(seeds[0][:len(seeds[0]):len(seeds[0])], text(6, string(append(text(1, "\xff"), text(2, string(make([]byte, 32)))...)))...)
	return append(seeds, unknown, badText, nil, []byte{0xff})
}

func TestScanIsDecode(t *testing.T) {
	for _, seed := range scanSeeds(t) {
		agree(t, seed)
		// Every bit flipped, and every beginning.
		for i := range seed {
			agree(t, seed[:i])
			for bit := range 8 {
				b := append([]byte(nil), seed...)
				b[i] ^= 1 << bit
				agree(t, b)
			}
		}
	}
}

func FuzzScan(f *testing.F) {
	for _, seed := range scanSeeds(f) {
		f.Add(seed)
	}
	f.Fuzz(agree)
}

func BenchmarkScan(b *testing.B) {
	body := scanSeeds(b)[0]
	b.Run("scan", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Scan(body); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("brief", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Brief(body); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Decode(body); err != nil {
				b.Fatal(err)
			}
		}
	})
}
