package witness

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"testing"
)

// What parses has one encoding.
func FuzzParseRequest(f *testing.F) {
	const cp = "o\n3\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— o AAAAAAAAAAAA\n"
	f.Add([]byte("old 0\n\n" + cp))
	f.Add([]byte("old 2\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n" + cp))
	f.Add([]byte("old 18446744073709551615\n\n" + cp))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRequest(data)
		if err != nil {
			return
		}
		var b bytes.Buffer
		fmt.Fprintf(&b, "old %d\n", r.old)
		for _, h := range r.proof {
			b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
		}
		b.WriteString("\n")
		b.Write(r.note)
		if !bytes.Equal(b.Bytes(), data) || len(r.proof) > maxProof || !bytes.HasPrefix(r.note, r.body.Marshal()) {
			t.Fatalf("%q parses as %+v", data, r)
		}
	})
}

// What parses has one encoding, and is a subtree that can be proven or not.
func FuzzParseSubtree(f *testing.F) {
	const hash = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
	for _, span := range []string{"0 3", "2 3", "0 18446744073709551615", "9223372036854775808 18446744073709551615"} {
		for _, size := range []string{"3", "18446744073709551615"} {
			cp := "o\n" + size + "\n" + hash + "\n— o AAAAAAAAAAAA\n"
			f.Add([]byte("subtree " + span + "\n" + hash + "\n" + cp))
			f.Add([]byte("subtree " + span + "\n" + hash + hash + hash + "\n" + cp))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseSubtree(data)
		if err != nil {
			return
		}
		var b bytes.Buffer
		fmt.Fprintf(&b, "subtree %d %d\n%s\n", r.start, r.end, base64.StdEncoding.EncodeToString(r.hash[:]))
		for _, h := range r.proof {
			b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
		}
		b.WriteString("\n")
		b.Write(r.note)
		if !bytes.Equal(b.Bytes(), data) || len(r.proof) > maxProof || r.start >= r.end || r.end > r.body.Size {
			t.Fatalf("%q parses as %+v", data, r)
		}
		if inTree(r) && len(r.proof) == 0 && r.hash != r.body.Root {
			t.Fatalf("%q proves what it does not", data)
		}
	})
}
