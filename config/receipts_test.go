package config

import (
	"errors"
	"strings"
	"testing"
)

func TestReceipts(t *testing.T) {
	for _, c := range []struct{ more, route, want string }{
		{"  receipts: always\n", "", `proxy.receipts: "always" is not signed or off`},
		{"  receipt_delay: 5s\n", "", "proxy.receipt_delay: there are no receipts"},
		{"  receipts: signed\n  receipt_delay: 1500ms\n", "", "proxy.receipt_delay: it is in whole seconds"},
		{"  receipts: signed\n  receipt_delay: 5s\n", "", ""},
		{"  receipts: signed\n", "x", "proxy.receipts: there are routes"},
	} {
		p := &Proxy{}
		ck := &checker{file: &File{Path: "c.yaml"}}
		for line := range strings.Lines(c.more) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			switch key {
			case "receipts":
				p.Receipts = Receipts(value)
			case "receipt_delay":
				d := map[string]Period{"5s": 5e9, "1500ms": 15e8}
				p.ReceiptDelay = d[value]
			}
		}
		if c.route != "" {
			p.Routes = []Route{{Service: "x"}}
		}
		ck.receipts(p)
		if err := ck.err; c.want == "" && err != nil || c.want != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%q: error %v, want %q", c.more, err, c.want)
		}
	}
}
