package audit_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// TestPageSignedNonsense: whoever has keys can sign what is of no known form. Both
// verifiers must read it alike, where the bytes are right and only the meaning is wrong.
func TestPageSignedNonsense(t *testing.T) {
	p := verifierPage(t)
	n := 150
	if testing.Short() {
		n = 15
	}
	random := rand.New(rand.NewPCG(1, 2))
	var list []sample
	take := func(name string, x *exhibit) {
		list = append(list, sample{name, x.proven.Marshal(), x.policy.Marshal()})
	}
	x := newExhibit(t)
	rich := richRecord(x)
	for i := range 4 * n {
		x.entries[x.index] = nonsense(random, i, rich)
		x.proven.Entry, x.p.entries[7] = x.entries[x.index], x.entries[x.index]
		x.reseal(7, 6)
		x.again(nil)
		x.proven.Openings = nil
		take(fmt.Sprintf("record %d: %x", i, x.proven.Entry), x)
	}
	for _, statement := range []struct {
		kind  byte
		index int
		file  func(x *exhibit)
	}{
		{1, 1, func(*exhibit) {}},
		{0, 0, func(*exhibit) {}},
		{5, 13, func(x *exhibit) {
			x.proven = &record.Evidence{Entry: x.entries[13], Log: x.inLog(13), Genesis: x.statement(0)}
		}},
	} {
		x := newExhibit(t)
		x.change(record.KeyChange{Enrol: []keys.Public{key(t, "another", keys.Ed25519).Public}, Revoke: []record.Revocation{{Key: key(t, "old", keys.Ed25519).Public, Last: []record.LastSequence{{Sequence: 7}}}}})
		if statement.kind == 5 {
			var err error
			if x.entries[13], err = record.NewRetention(origin, 2, record.Retention{Keep: time.Hour, Entries: 9}, x.operator); err != nil {
				t.Fatal(err)
			}
		}
		good := x.entries[statement.index]
		text, err := checkpoint.Text(good[2:])
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			changed := reworded(random, string(text))
			if x.entries[statement.index] = append([]byte{1, statement.kind}, signText(x.operator, changed)...); len(x.entries[statement.index]) == 2 {
				continue // no note can say this
			}
			x.again(nil)
			statement.file(x)
			take(fmt.Sprintf("statement of kind %d: %q", statement.kind, changed), x)
		}
	}
	x = newExhibit(t)
	sealText, _ := checkpoint.Text(x.seal)
	headText, _ := checkpoint.Text(x.head)
	for range n {
		changed := reworded(random, string(sealText))
		if s := signText(x.p.key, changed); s != nil {
			y := *x.proven
			x.proven.Producer.Checkpoint, x.proven.Beacon.Proof.Checkpoint = s, s
			take(fmt.Sprintf("seal: %q", changed), x)
			x.proven.Producer.Checkpoint, x.proven.Beacon.Proof.Checkpoint = x.seal, x.seal
			x.proven = &y
		}
		changed = reworded(random, string(headText))
		if s := signText(x.log, changed); s != nil {
			for _, w := range x.witnesses {
				s = append(s, cosignText(t, w, changed, x.now/int64(time.Second))...)
			}
			y := *x.proven
			y.Log.Checkpoint, y.Genesis, y.KeyChange = s, x.statement(0), x.statement(1)
			y.Genesis.Proof.Checkpoint, y.KeyChange.Proof.Checkpoint = s, s
			list = append(list, sample{fmt.Sprintf("head: %q", changed), y.Marshal(), x.policy.Marshal()})
		}
	}
	counts := judge(t, p, list)
	if counts[audit.Pass] < n/5 || counts[audit.Fail] < n {
		t.Errorf("%v: the samples are not what they should be", counts)
	}
	t.Log(counts)
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "— x%d AAAAAAA=\n", i)
	}
	return b.String()
}

// signText signs any text that a note can hold; nil if none can.
func signText(k *keys.Private, text string) []byte {
	signer, err := k.Signer()
	if err != nil {
		panic(err) // never: the keys are good
	}
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		return nil
	}
	return signed
}

// richRecord is a record of the exhibit's place with something of everything in it.
func richRecord(x *exhibit) []byte {
	r := request("/päth")
	q := r.GetRequest()
	q.Who = &sealtapv1.Who{Id: "alice", How: "jwt", Verified: true, Claims: []*sealtapv1.Claim{{Name: "a", Value: "b"}}}
	q.Headers = []*sealtapv1.Header{{Name: "accept", Value: "x"}, {Name: "cookie", Sealed: true}}
	q.Body = &sealtapv1.Body{Size: 1 << 40, Sha256: make([]byte, 32)}
	q.Changes = []*sealtapv1.Change{{Kind: sealtapv1.ChangeKind_CHANGE_KIND_ADDED, Name: "via"}}
	q.Decision = &sealtapv1.Decision{Rule: "default", Allowed: true}
	r.Sealed = []*sealtapv1.SealedField{{Field: "source", Commitment: make([]byte, 32)}, {Field: "query", Commitment: make([]byte, 32)}}
	r.Time = x.now - int64(4*time.Second)
	return x.remake(7, r)
}

// nonsense makes of a good record one that may not be.
func nonsense(random *rand.Rand, i int, entry []byte) []byte {
	extra := [][]byte{
		nil, {0x18, 0x07}, {0x18, 0x87, 0x00}, {0xc0, 0x3e, 0x01}, {0xc2, 0x3e, 0x01, 0xff}, {0xc2, 0x3e, 0x81, 0x00, 0xff}, {0xc0, 0x3e, 0x81, 0x00}, {0xc3, 0x3e, 0xc4, 0x3e},
		{0xc5, 0x3e, 1, 2, 3, 4}, {0xc1, 0x3e, 1, 2, 3, 4, 5, 6, 7, 8}, {0xc6, 0x3e}, {0x00, 0x00}, {0xc0, 0xbe, 0x00, 0x01}, {0x92, 0x01, 0x00}, {0x8a, 0x01, 0x00}, {0xba, 0x01, 0x00},
		{0x32, 0x00}, {0x32, 0x02, 0x0a, 0x00}, {0xf8, 0xff, 0xff, 0xff, 0x0f, 0x00}, {0x80, 0x80, 0x80, 0x80, 0x10, 0x00}, {0xc0, 0x3e, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		{0xc0, 0x3e, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02}, {0xc2, 0x3e, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, {0x31, 1, 2, 3, 4, 5, 6, 7, 8},
	}
	b := bytes.Clone(entry)
	if i < len(extra) {
		return append(b, extra[i]...)
	}
	for range 1 + random.IntN(2) {
		at := 2 + random.IntN(len(b)-2)
		switch random.IntN(5) {
		case 0:
			b = b[:at]
		case 1:
			b = append(b[:at:at], b[at+1:]...)
		case 2:
			b = append(append(b[:at:at], byte(random.Uint32())), b[at:]...)
		default:
			b[at] ^= 1 << random.IntN(8)
		}
		if len(b) < 4 {
			return b
		}
	}
	return b
}

// reworded makes of a good text one that may not be.
func reworded(random *rand.Rand, text string) string {
	lines := strings.SplitAfter(text, "\n")
	lines = lines[:len(lines)-1]
	i, j := random.IntN(len(lines)), random.IntN(len(lines))
	switch random.IntN(9) {
	case 0:
		return text
	case 1:
		lines[i], lines[j] = lines[j], lines[i]
	case 2:
		lines[i] += lines[i]
	case 3:
		lines[i] = ""
	case 4:
		lines[i] = strings.Replace(lines[i], " ", "  ", 1)
	case 5:
		lines[i] = strings.TrimSuffix(lines[i], "\n") + []string{" ", "0", "é", "\u200b", "=", "+", "\n", "\nx\n", "\n-- x --"}[random.IntN(9)] + "\n"
	case 6:
		word := []string{"log x\n", "keep 0\n", "keep 07\n", "keep forever\n", "keep 9223372037\n", "keep-entries 1\n", "number 0\n", "last 00 1\n", "revoke \n", "successor x\n", "predecessor AAAA\n"}
		lines[i] += word[random.IntN(len(word))]
	default:
		b := []byte(lines[i])
		if at := random.IntN(len(b)); b[at] != '\n' && b[at] < 0x80 {
			b[at] = "0123456789abcdefgABCDEFG+/= -"[random.IntN(29)]
		}
		lines[i] = string(b)
	}
	return strings.Join(lines, "")
}
