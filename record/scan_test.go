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
	var f Facts
	if err := f.Look(body); err == nil && decodeErr == nil {
		agreeOnFacts(t, &f, r)
	} else if (err == nil) != (decodeErr == nil) {
		t.Fatalf("Look says %v of %x", err, body)
	}
	b, briefErr := Brief(body)
	if (briefErr == nil) != (decodeErr == nil) {
		t.Fatalf("Brief says %v, Decode says %v of %x", briefErr, decodeErr, body)
	}
	if briefErr == nil && summary(b) != summary(r) {
		t.Fatalf("Brief read\n%s\nof\n%s", summary(b), summary(r))
	}
}

func agreeOnFacts(t *testing.T, f *Facts, r Record) {
	t.Helper()
	said := func(b *sealtapv1.Body) BodyFacts { return BodyFacts{b.GetSize(), b.GetSha256()} }
	q, p := f.OfRequest(), f.OfResponse()
	a, b := r.GetRequest(), r.GetResponse()
	got := fmt.Sprintf("%d %x %x %t %x %x %t %d %d %t %d %x %x %x", f.Time, f.Exchange, f.Stream, f.Request, q.Caller, q.Body, f.Response,
		p.Status, p.Outcome, p.Tunnel, p.Attempts, p.RequestBody, p.Received, p.Sent)
	want := fmt.Sprintf("%d %x %x %t %x %x %t %d %d %t %d %x %x %x", r.GetTime(), r.GetExchange(), r.Stream, a != nil, a.GetCaller(), said(a.GetBody()), b != nil,
		b.GetStatus(), b.GetOutcome(), b.GetTunnel() != nil, len(b.GetAttempts()), said(b.GetRequestBody()), said(b.GetReceived()), said(b.GetSent()))
	own := r.GetAbout() != nil && a == nil && b == nil && r.GetProgress() == nil
	if got != want || f.Own != own {
		t.Fatalf("Look read\n%s, of the producer: %t\nof\n%s", got, f.Own, want)
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
	many := sample(NewStream(keys.ID{5}))
	for i := range 18 {
		many.Sealed = append(many.Sealed, sealed(string(rune('a'+i))))
	}
	twice := sample(NewStream(keys.ID{2}))
	twice.Sealed = []*sealtapv1.SealedField{sealed("a"), sealed("a")}
	response := sample(NewStream(keys.ID{3}))
	response.About = &sealtapv1.Record_Response{Response: &sealtapv1.Response{Status: 404, Detail: "x", Headers: []*sealtapv1.Header{{Name: "a"}},
		Outcome: sealtapv1.Outcome_OUTCOME_COMPLETE, Received: &sealtapv1.Body{Size: 7, Sha256: make([]byte, 32)}, Sent: &sealtapv1.Body{Size: 1 << 40},
		RequestBody: &sealtapv1.Body{}, Tunnel: &sealtapv1.Tunnel{}, Attempts: []*sealtapv1.Attempt{{}, {}}}}
	beacon := sample(NewStream(keys.ID{4}))
	beacon.About = &sealtapv1.Record_Beacon{Beacon: &sealtapv1.Beacon{Checkpoint: []byte("checkpoint")}}
	for _, r := range []*sealtapv1.Record{full, twice, response, beacon, many, {}} {
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
