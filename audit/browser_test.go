package audit_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/web/webtest"
	"github.com/sealtap/sealtap/witness/policy"
)

// verifierPage opens web/verifier/verifier.html from its file.
func verifierPage(t *testing.T) *webtest.Page {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "web", "verifier", "verifier.html"))
	if err != nil {
		t.Fatal(err)
	}
	return webtest.Open(t).Page("file://" + path)
}

// opinion is what a verifier says.
type opinion struct {
	Verdict audit.Verdict `json:"verdict"`
	Reason  string        `json:"reason"`
}

// ours is the Go verifier's opinion of a file, as sealtap verify has it.
func ours(file, policyText []byte) opinion {
	p, err := policy.Parse(policyText)
	if err != nil {
		return opinion{audit.Incomplete, err.Error()}
	}
	if bytes.HasPrefix(file, []byte(audit.OmissionStart)) {
		_, err = audit.VerifyOmission(file, p, nil)
	} else {
		_, err = audit.VerifyEvidence(file, p, nil)
	}
	switch {
	case err == nil:
		return opinion{audit.Pass, ""}
	case errors.As(err, new(*audit.EvidenceError)):
		return opinion{audit.Fail, err.Error()}
	}
	return opinion{audit.Incomplete, err.Error()}
}

// edit makes one file of another: an XOR at a place, or a cut where mask is 0.
type edit struct {
	At   int  `json:"at"`
	Mask byte `json:"mask"`
}

func (e edit) apply(b []byte) []byte {
	if e.Mask == 0 {
		return b[:e.At]
	}
	b = bytes.Clone(b)
	b[e.At] ^= e.Mask
	return b
}

// theirs has the page verify all edits of evidence and policy in one go.
func theirs(p *webtest.Page, file, policyText []byte, edits []edit, ofPolicy bool) []opinion {
	list, err := json.Marshal(edits)
	if err != nil {
		panic(err) // never: plain numbers
	}
	var out []opinion
	p.Eval(fmt.Sprintf(`(async () => {
		const read = (s) => Uint8Array.from(atob(s), (c) => c.charCodeAt(0)), out = [];
		const file = read(%q), policy = read(%q), ofPolicy = %v;
		const edited = (b, e) => { b = b.slice(); if (!e.mask) return b.slice(0, e.at); b[e.at] ^= e.mask; return b; };
		for (const e of %s) out.push(await sealtapVerify(ofPolicy ? file : edited(file, e), ofPolicy ? edited(policy, e) : policy));
		return out;
	})()`, base64.StdEncoding.EncodeToString(file), base64.StdEncoding.EncodeToString(policyText), ofPolicy, list), &out)
	return out
}

// agree has both verifiers look at a file and at edits of it. It returns the verdict
// on the file itself.
func agree(t *testing.T, p *webtest.Page, file, policyText []byte, edits []edit, ofPolicy bool) audit.Verdict {
	t.Helper()
	whole := file
	if ofPolicy {
		whole = policyText
	}
	edits = append([]edit{{At: len(whole)}}, edits...)
	first := audit.Incomplete
	for i, got := range theirs(p, file, policyText, edits, ofPolicy) {
		e := edits[i]
		f, pol := e.apply(file[:len(file):len(file)]), policyText
		if ofPolicy {
			f, pol = file, e.apply(policyText)
		}
		want := ours(f, pol)
		if i == 0 {
			first = got.Verdict
		}
		if got.Verdict != want.Verdict {
			from, to := max(0, e.At-30), min(len(whole), e.At+30)
			t.Errorf("edit %+v around %q:\n  Go   %s %s\n  page %s %s", e, whole[from:to], want.Verdict, want.Reason, got.Verdict, got.Reason)
		}
		if strings.Contains(got.Reason, "This page failed") {
			t.Errorf("edit %+v: %s", e, got.Reason)
		}
	}
	return first
}

// flipsAndCuts samples a file: each byte once or more, and cuts.
func flipsAndCuts(file []byte, step int) (list []edit) {
	masks := []byte{0x01, 0x20, 0x80, 0x04, 0x5a}
	for i := 0; i < len(file); i += step {
		list = append(list, edit{i, masks[i/step%len(masks)]})
	}
	for n := 0; n < len(file); n += 1 + 8*step {
		list = append(list, edit{At: n})
	}
	return list
}
