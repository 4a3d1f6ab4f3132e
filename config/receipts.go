package config

import (
	"fmt"
	"time"
)

// Receipts says what answers carry: "signed" for signed promises that their records
// exist, "off" or nothing for none.
type Receipts string

// Signed reports whether answers carry receipts.
func (r Receipts) Signed() bool { return r == "signed" }

const (
	leastReceiptDelay = Period(time.Second)
	mostReceiptDelay  = Period(365 * 24 * time.Hour)
)

// receipts checks what is said of receipts, for the proxy and for its routes.
func (c *checker) receipts(p *Proxy) {
	c.receiptsOf("proxy.receipts", p.Receipts)
	some := p.Receipts.Signed()
	for i := range p.Routes {
		c.receiptsOf(fmt.Sprintf("proxy.routes.[%d].receipts", i), p.Routes[i].Receipts)
		some = some || p.Routes[i].Receipts.Signed()
	}
	if p.Receipts != "" && len(p.Routes) > 0 {
		c.fail("proxy.receipts", ": there are routes, and each says it for itself")
	}
	if d := p.ReceiptDelay; d != 0 {
		switch {
		case !some:
			c.fail("proxy.receipt_delay", ": there are no receipts")
		case d < leastReceiptDelay, d > mostReceiptDelay, d%leastReceiptDelay != 0:
			c.fail("proxy.receipt_delay", ": it is in whole seconds, from 1s to 8760h")
		}
	}
}

func (c *checker) receiptsOf(key string, r Receipts) {
	if r != "" && r != "signed" && r != "off" {
		c.fail(key, ": %q is not signed or off", string(r))
	}
}
