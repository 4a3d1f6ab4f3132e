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
