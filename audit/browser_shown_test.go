package audit_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealtap/sealtap/audit"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// TestPageShows: what a person sees who chooses two files. Whatever a record holds
// stands there as text, with nothing in it that cannot be seen.
func TestPageShows(t *testing.T) {
	p := verifierPage(t)
	dir, n := t.TempDir(), 0
	show := func(file, policyText []byte) string {
		t.Helper()
		n++ // another name: a browser tells of a choice only if it changes something
		for i, b := range [][]byte{policyText, file} {
			path := filepath.Join(dir, string(rune('a'+n))+[]string{".policy", ".evidence"}[i])
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			p.Eval(`document.getElementById("result").replaceChildren()`, nil)
			p.Choose([]string{"#policy-file", "#evidence-file"}[i], path)
			p.Wait(`(e => e && !e.textContent.startsWith("Checking"))(document.querySelector("#result .verdict"))`)
		}
		p.Wait(`document.getElementById("verdict")`)
		var text string
		p.Eval(`document.getElementById("result").innerText`, &text)
		return text
	}
	wants := func(text string, list ...string) {
		t.Helper()
		flat := strings.Join(strings.Fields(text), " ")
		for _, want := range list {
			if !strings.Contains(flat, want) {
				t.Errorf("no %q in\n%s", want, text)
			}
		}
	}

	x := newExhibit(t)
	const hostile = "/<img src=x onerror=document.title=1>\u202e\u200b\x1b[31m&amp;"
	r := request(hostile)
	opened := record.NewOpening("headers", "list", record.AppendList(record.AppendList(nil, "<b>secret</b>"), "two"))
	c := record.Commitment(x.p.stream, 7, opened)
	r.Sealed = []*sealtapv1.SealedField{{Field: "headers", Commitment: c[:]}}
	r.GetRequest().Headers = []*sealtapv1.Header{{Name: "cookie", Sealed: true}, {Name: "accept", Value: "*/*"}, {Name: "x", Sealed: true}}
	r.GetRequest().Who = &sealtapv1.Who{Id: "alice", How: "jwt", Verified: true}
	r.Time = x.now - 4e9
	x.entries[x.index] = x.remake(7, r)
	x.proven.Entry, x.p.entries[7] = x.entries[x.index], x.entries[x.index]
	x.proven.Openings = []*sealtapv1.Opening{opened}
	x.reseal(7, 6)
	x.again(nil)
	good, policyText := x.proven.Marshal(), x.policy.Marshal()
	text := show(good, policyText)
	wants(text, "Pass: proven", "By the log log.example/audit: this record stands in it at index 11", "By the witnesses w1 (at 2027-01-15T08:00:27Z), w2",
		"The policy asks for all of w1, w2", "By the operator operator.example: shop was enrolled before that, at index 1", "By the producer shop: it wrote this as record 7",
		"it was written after 2027-01-15T08:00:20Z", "before 2027-01-15T08:00:27Z", "That what the record says is true", "not before 2027-01-15T08:00:20Z, by the witnesses",
		`/<img src=x onerror=document.title=1>\u{202e}\u{200b}\u{1b}[31m&amp;`, "cookie: <b>secret</b> (sealed; opened here)", "accept: */*", "x: two (sealed; opened here)", "alice", "verified yes")
	var elements int
	if p.Eval(`document.querySelectorAll("#result img, #result b, #result script").length`, &elements); elements != 0 {
		t.Error("a record has become markup")
	}
	wants(show(good[:len(good)-30], policyText), "Fail: this evidence proves nothing", "It does not hold:")
	bad := []byte(strings.Replace(string(good), "-- opening --\nheaders list ", "-- opening --\nheaders string ", 1))
	text = show(bad, policyText)
	wants(text, "Fail: this evidence proves nothing", "How far the check came", "the operator enrolled shop", "the opening of headers is not what the record commits to")
	if strings.Contains(text, "What the record says") || strings.Contains(text, "What is proven") {
		t.Errorf("a failure shows what is not proven\n%s", text)
	}
	wants(show(good, []byte("quorum x\n")), "Incomplete: nothing is concluded", "The policy cannot be used: line 1: x is not defined")
	w, _, o := omitted(t, 10)
	wants(show(omissionText(t, w, o), w.policy.Marshal()), "Pass: the evidence stands", "a record is missing that was promised", "it holds back a record that its producer sealed", "That the record is nowhere among those entries")
	wants(show([]byte("HTTP/1.1 200 OK\r\nSealtap-Receipt: "+o.Receipt.String()+"\r\n\r\n"), w.policy.Marshal()), "Incomplete", "This page does not check this kind: receipts")
	wants(show([]byte("index,leaf_hash,path\n1,x,/\n"), w.policy.Marshal()), "Incomplete", "This page does not check this kind: rows of an export")
	wants(show([]byte(`{"index":1,"leaf_hash":"x"}`+"\n"), w.policy.Marshal()), "Incomplete", "This page does not check this kind: rows of an export")

	// The page's own policy keeps it from the network, and from other scripts.
	var blocked string
	p.Eval(`new Promise((done) => { addEventListener("securitypolicyviolation", (e) => done(e.effectiveDirective)); fetch("http://127.0.0.1:9/").catch(() => 0); })`, &blocked)
	if blocked != "connect-src" {
		t.Errorf("a request was stopped by %q", blocked)
	}
	// A browser without Ed25519, or with a looser one, says so and concludes nothing.
	for script, want := range map[string]string{
		`crypto.subtle.importKey = async () => { throw new DOMException("", "NotSupportedError"); }`: "has no Ed25519",
		`crypto.subtle.verify = async () => true`:                                                    "strict reading",
		`Object.defineProperty(crypto, "subtle", { value: undefined, configurable: true })`:          "must be opened from a file",
	} {
		q := verifierPage(t)
		q.Eval(script+"; 0", nil)
		if got := theirs(q, good, policyText, []edit{{At: len(good)}}, false)[0]; got.Verdict != audit.Incomplete || !strings.Contains(got.Reason, want) {
			t.Errorf("%s: %+v", want, got)
		}
	}
}
