package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sealtap/sealtap/keys"
)

func TestAnalyse(t *testing.T) {
	vkey := func(name string, typ keys.Type) string {
		k, err := keys.Generate(name, typ)
		if err != nil {
			t.Fatal(err)
		}
		return k.Public.String()
	}
	base := "log " + vkey("log.example", keys.Ed25519) + " https://log.example\n"
	for i := range 5 {
		base += fmt.Sprintf("witness w%d %s\n", i+1, vkey(fmt.Sprintf("w%d.example", i+1), keys.Cosignature))
	}
	for _, tc := range []struct {
		name, rest   string
		least, spare int
		apart        bool
		idle         int
		says         string
	}{
		{"none", "quorum none\n", 0, 5, true, 5, "with the log's signature alone"},
		{"one", "quorum w1\n", 1, 0, false, 4, "cosigned by w1."},
		{"any", "group g 1 w1 w2 w3 w4 w5\nquorum g\n", 1, 4, true, 0, "(any of w1, w2, w3, w4, w5)"},
		{"two of five", "group g 2 w1 w2 w3 w4 w5\nquorum g\n", 2, 3, true, 0, "WARNING: two quorums"},
		{"majority", "group g 3 w1 w2 w3 w4 w5\nquorum g\n", 3, 2, false, 0, "Heads go on while any 2 witnesses are away."},
		{"all", "group g all w1 w2 w3 w4 w5\nquorum g\n", 5, 0, false, 0, "(all of w1, w2, w3, w4, w5)"},
		{"nested", "group a 1 w1 w2\ngroup b 2 w3 w4 w5\ngroup g all a b\nquorum g\n", 3, 1, false, 0, "(all of (any of w1, w2), (2 of w3, w4, w5))"},
		{"idle", "group g 2 w1 w2\nquorum g\n", 2, 0, false, 3, "nothing depends on witness w4"},
	} {
		p, err := Parse([]byte(base + tc.rest))
		if err != nil {
			t.Fatal(err)
		}
		a, ok := p.Analyse()
		if !ok || a.Least != tc.least || a.Spare != tc.spare || a.Apart != tc.apart || len(a.Idle) != tc.idle {
			t.Errorf("%s: %+v", tc.name, a)
		}
		if text := p.Explain(); !strings.Contains(text, tc.says) || !strings.Contains(text, "no operator is pinned") {
			t.Errorf("%s: %s", tc.name, text)
		}
	}
}
