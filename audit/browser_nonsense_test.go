package audit_test

import (
	"bytes"
	"encoding/base64"
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
	n := 80
	if testing.Short() {
		n = 15
	}
	random := rand.New(rand.NewPCG(1, 2))
	var list []sample
	take := func(name string, x *exhibit) {
		list = append(list, sample{name, x.proven.Marshal(), x.policy.Marshal()})
	}
	x := newExhibit(t)
	entries := rawRecords(x)
	rich := richRecord(x)
	for range 2 * n {
		entries = append(entries, nonsense(random, rich))
	}
	for i, entry := range entries {
		x.entries[x.index], x.p.entries[7], x.proven.Entry, x.proven.Openings = entry, entry, entry, nil
		x.reseal(7, 6)
		x.again(nil)
		take(fmt.Sprintf("record %d: %x", i, entry), x)
	}
	for _, kind := range []byte{0, 1, 5} {
		x := newExhibit(t)
		at := x.change(record.KeyChange{Enrol: []keys.Public{key(t, "another", keys.Ed25519).Public}})
		texts, file := x.keyChanges(), func() {}
		switch kind {
		case 0:
			at, texts = 0, x.geneses()
		case 1:
			at = 1
		case 5:
			texts = statements(x)
			file = func() { x.proven = &record.Evidence{Entry: x.entries[at], Log: x.inLog(at), Genesis: x.statement(0)} }
		}
		good := texts[0]
		for range n {
			texts = append(texts, reworded(random, good))
		}
		for _, text := range texts {
			signed := signText(x.operator, text)
			if signed == nil {
				continue // no note can say this
			}
			x.entries[at] = append([]byte{1, kind}, signed...)
			x.again(nil)
			file()
			take(fmt.Sprintf("statement of kind %d: %q", kind, text), x)
		}
	}
	list = append(list, x.heads(t, random, n)...)
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

// rawRecords are records of the exhibit's place with fields of every spelling.
func rawRecords(x *exhibit) (list [][]byte) {
	at := func(unixNano int64) []byte {
		return x.remake(7, &sealtapv1.Record{Time: unixNano})
	}
	lower, upper := (epoch+20)*int64(time.Second), (epoch+27)*int64(time.Second)
	for _, d := range []int64{-1, 0, 1} { // at both ends of the skew
		list = append(list, at(lower-int64(audit.DefaultSkew)+d), at(upper+int64(audit.DefaultSkew)+d))
	}
	commitment := append([]byte{0x12, 0x20}, make([]byte, 32)...)
	sealed := func(length []byte, field ...byte) []byte {
		return append(append(append([]byte{0x32}, length...), field...), commitment...)
	}
	base := at(lower)
	for _, more := range [][]byte{
		nil, {0x18, 0x07}, {0xc0, 0x3e, 0x01}, {0xc2, 0x3e, 0x01, 0xff}, {0xc2, 0x3e, 0x81, 0x00, 0xff}, {0xc0, 0x3e, 0x81, 0x00}, {0xc3, 0x3e, 0xc4, 0x3e},
		{0xc5, 0x3e, 1, 2, 3, 4}, {0xc1, 0x3e, 1, 2, 3, 4, 5, 6, 7, 8}, {0xc6, 0x3e}, {0xc7, 0x3e}, {0x00, 0x00}, {0xc0, 0xbe, 0x00, 0x01},
		{0x92, 0x01, 0x00}, {0x8a, 0x01, 0x00}, {0xba, 0x01, 0x00}, {0x8a, 0x01, 0x00, 0x92, 0x01, 0x00}, {0x32, 0x00}, {0x32, 0x02, 0x0a, 0x00},
		{0xf8, 0xff, 0xff, 0xff, 0x0f, 0x00}, {0x80, 0x80, 0x80, 0x80, 0x10, 0x00}, {0xc0, 0x3e, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		{0xc0, 0x3e, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02}, {0xc2, 0x3e, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, {0x31, 1, 2, 3, 4, 5, 6, 7, 8},
		{0x28, 0x01}, {0x2a, 0x00}, {0x2a, 0x80, 0x00}, {0x2a, 0x03, 1, 2, 3}, append([]byte{0x2a, 0x10}, make([]byte, 16)...), append([]byte{0x2a, 0x90, 0x00}, make([]byte, 16)...),
		sealed([]byte{37}, 0x0a, 1, 'x'), sealed([]byte{0xa5, 0x00}, 0x0a, 1, 'x'), sealed([]byte{37}, 0x0a, 1, 0xff), sealed([]byte{37}, 0x1a, 1, 0xff), sealed([]byte{34}),
		append(sealed([]byte{37}, 0x0a, 1, 'x'), sealed([]byte{37}, 0x0a, 1, 'x')...), append(sealed([]byte{37}, 0x0a, 1, 'x'), sealed([]byte{37}, 0x0a, 1, 'y')...),
		{0x82, 0x01, 4, 0x12, 2, 0x18, 1}, {0x82, 0x01, 4, 0x12, 2, 0x18, 2}, {0x82, 0x01, 4, 0x12, 2, 0x1d, 1}, {0x82, 0x01, 5, 0x12, 3, 0x0a, 1, 0xed}, {0x82, 0x01, 3, 0x0a, 1, 0},
		{0x82, 0x01, 4, 0x42, 2, 0xc3, 0xa9}, {0x82, 0x01, 3, 0x42, 1, 0xa9}, {0x82, 0x01, 5, 0x42, 3, 0xed, 0xa0, 0x80}, {0x82, 0x01, 4, 0x42, 2, 0xc0, 0x80},
		{0x8a, 0x01, 6, 0x08, 0xff, 0xff, 0xff, 0xff, 0x0f}, {0x8a, 0x01, 6, 0x08, 0x80, 0x80, 0x80, 0x80, 0x10}, {0x8a, 0x01, 6, 0x40, 0xff, 0xff, 0xff, 0xff, 0x07}, {0x8a, 0x01, 6, 0x40, 0x80, 0x80, 0x80, 0x80, 0x08},
	} {
		list = append(list, append(bytes.Clone(base), more...))
	}
	return list
}

// keyChanges are texts of the statement that enrols the producer, the good one first.
func (x *exhibit) keyChanges() []string {
	first := fmt.Sprintf("sealtap/key-change/v1\nlog %s\nnumber 1\n", origin)
	enrol := "enrol " + x.p.key.Public.String() + "\n"
	old := key(x.t, "old", keys.Ed25519).Public.String() + "\n"
	last := "last " + strings.Repeat("0a", 16) + " 7\n"
	list := []string{first + enrol + "revoke " + old + last}
	for _, more := range []string{
		"log " + key(x.t, origin, keys.MLDSA44).Public.String() + "\n", "log " + key(x.t, "log.example/other", keys.MLDSA44).Public.String() + "\n", "log " + x.log.Public.String() + "\n",
		"enrol " + key(x.t, "a\u200bb", keys.Ed25519).Public.String() + "\n", "enrol " + key(x.t, "a\u00e9", keys.Ed25519).Public.String() + "\n", "enrol " + key(x.t, "w", keys.Cosignature).Public.String() + "\n",
		"revoke " + key(x.t, "w", keys.Cosignature).Public.String() + "\n", last, "revoke " + old + strings.ToUpper(last), "revoke " + old + strings.Replace(last, "7", "07", 1), "revoke " + old + strings.Replace(last, "7", "18446744073709551616", 1),
		"revoke " + old + last + last, enrol, "\n", "x\n",
	} {
		list = append(list, first+enrol+more)
	}
	for _, number := range []string{"0", "01", "2", "18446744073709551615", "18446744073709551616", "-1", ""} {
		list = append(list, strings.Replace(first, "number 1", "number "+number, 1)+enrol)
	}
	return append(list, strings.Replace(first, origin, "", 1)+enrol, first, enrol)
}

// geneses are texts of a genesis, the good one first.
func (x *exhibit) geneses() []string {
	first := "sealtap/genesis/v1\nlog " + x.log.Public.String() + "\n"
	rest := "operator " + x.operator.Public.String() + "\ncreated 2027-01-15T08:00:00Z\n"
	list := []string{first + rest}
	for _, more := range []*keys.Private{key(x.t, origin, keys.MLDSA44), key(x.t, "log.example/other", keys.MLDSA44), key(x.t, origin, keys.Ed25519)} {
		list = append(list, first+"log "+more.Public.String()+"\n"+rest, "sealtap/genesis/v1\nlog "+more.Public.String()+"\n"+rest)
	}
	for _, created := range []string{"2027-02-29T08:00:00Z", "2028-02-29T08:00:00Z", "2027-01-15T24:00:00Z", "2027-01-15T08:00:60Z", "2027-01-15T08:00:00.5Z", "2027-01-15T08:00:00+00:00", "2027-01-15 08:00:00Z", "0000-01-01T00:00:00Z", "2027-01-15T08:00:00z"} {
		list = append(list, strings.Replace(list[0], "2027-01-15T08:00:00Z", created, 1))
	}
	head := func(origin string, size uint64, below string) string {
		return string(checkpoint.Body{Origin: origin, Size: size}.Marshal()) + below
	}
	for _, before := range []string{"", "x", head("log.example/before", 7, ""), head("log.example/before", 7, "\n"), head("log.example/before", 7, "\nanything"), head("log.example/before", 0, "\n"), head(origin, 7, "\n"),
		head("log.example/before", 7, "x\n\n"), head("log.example/\xff", 7, "\n"), head("log.example/before", 7, "\n\xff")} {
		list = append(list, list[0]+"predecessor "+base64.StdEncoding.EncodeToString([]byte(before))+"\n")
	}
	return append(list, list[0]+"x\n", list[0]+"predecessor !\n", first)
}

// statements are texts of statements about the log, a good one first.
func statements(x *exhibit) (list []string) {
	first := fmt.Sprintf("sealtap/retention/v1\nlog %s\nnumber 2\n", origin)
	for _, rest := range []string{"keep 3600\nkeep-entries 9\n", "keep 3600\n", "keep-entries 9\n", "keep-entries 9\nkeep 3600\n", "keep 3600\nkeep 3600\n", "keep forever\n", "keep forever\nkeep-entries 9\n", "keep 0\n", "keep 07\n",
		"keep 9223372036\n", "keep 9223372037\n", "keep-entries 18446744073709551615\n", "keep-entries 18446744073709551616\n", "keep-entries 0\n", "keep \n", "keep  7\n", "keep 3600\n\n", ""} {
		list = append(list, first+rest)
	}
	first = fmt.Sprintf("sealtap/close/v1\nlog %s\nnumber 2\n", origin)
	for _, k := range []*keys.Private{key(x.t, "log.example/next", keys.Ed25519), key(x.t, origin, keys.Ed25519), key(x.t, "log.example/next", keys.MLDSA44)} {
		list = append(list, first+"successor "+k.Public.String()+"\n")
	}
	return append(list, first, "sealtap/other/v1\nlog "+origin+"\nnumber 2\nx\n")
}

// heads are seals and checkpoints of the log that say what they should not.
func (x *exhibit) heads(t *testing.T, random *rand.Rand, n int) (list []sample) {
	x.again(nil)
	seal, head := x.seal, x.head
	sealText, _ := checkpoint.Text(seal)
	headText, _ := checkpoint.Text(head)
	for range n {
		e := *x.proven
		changed := reworded(random, string(sealText))
		if s := signText(x.p.key, changed); s != nil {
			own, before := *e.Producer, *e.Beacon
			own.Checkpoint, before.Proof.Checkpoint = s, s
			e.Producer, e.Beacon = &own, &before
			list = append(list, sample{fmt.Sprintf("seal: %q", changed), e.Marshal(), x.policy.Marshal()})
		}
		changed = reworded(random, string(headText))
		if s := signText(x.log, changed); s != nil {
			for _, w := range x.witnesses {
				s = append(s, cosignText(t, w, changed, x.now/int64(time.Second))...)
			}
			e = *x.proven
			e.Log.Checkpoint, e.Genesis, e.KeyChange = s, x.statement(0), x.statement(1)
			e.Genesis.Proof.Checkpoint, e.KeyChange.Proof.Checkpoint = s, s
			list = append(list, sample{fmt.Sprintf("head: %q", changed), e.Marshal(), x.policy.Marshal()})
		}
	}
	return list
}

// nonsense makes of a good record one that may not be.
func nonsense(random *rand.Rand, entry []byte) []byte {
	b := bytes.Clone(entry)
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
