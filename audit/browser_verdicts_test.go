package audit_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client/clienttest"
	"github.com/sealtap/sealtap/web/webtest"
)

// TestPageFlips: the page and the Go verifier, which share no code, say the same of
// good evidence and of thousands of altered ones.
func TestPageFlips(t *testing.T) {
	p := verifierPage(t)
	x := newExhibit(t)
	good, policyText := x.proven.Marshal(), x.policy.Marshal()
	step := 2 // some 4,000 edits in all
	if testing.Short() {
		step = 13
	}
	if v := agree(t, p, good, policyText, flipsAndCuts(good, step), false); v != audit.Pass {
		t.Errorf("the good one: %s", v)
	}
	agree(t, p, good, policyText, flipsAndCuts(policyText, step), true)
	w, _, o := omitted(t, 10)
	omission := omissionText(t, w, o)
	if v := agree(t, p, omission, w.policy.Marshal(), flipsAndCuts(omission, 2*step), false); v != audit.Pass {
		t.Errorf("the good omission: %s", v)
	}
}

// sample is a file with a policy to verify it under.
type sample struct {
	name         string
	file, policy []byte
}

// judge has both verifiers look at all samples, and wants them to agree. It returns how
// many had each verdict.
func judge(t *testing.T, p *webtest.Page, list []sample) map[audit.Verdict]int {
	t.Helper()
	counts := make(map[audit.Verdict]int)
	for i, got := range theirsOf(p, list) {
		want := ours(list[i].file, list[i].policy)
		counts[want.Verdict]++
		if got.Verdict != want.Verdict || strings.Contains(got.Reason, "This page failed") {
			t.Errorf("%s:\n  Go   %s %s\n  page %s %s", list[i].name, want.Verdict, want.Reason, got.Verdict, got.Reason)
		}
	}
	return counts
}

func theirsOf(p *webtest.Page, list []sample) []opinion {
	var files [][2]string
	for _, s := range list {
		files = append(files, [2]string{base64.StdEncoding.EncodeToString(s.file), base64.StdEncoding.EncodeToString(s.policy)})
	}
	text, err := json.Marshal(files)
	if err != nil {
		panic(err) // never: plain strings
	}
	var out []opinion
	p.Eval(fmt.Sprintf(`(async () => {
		const read = (s) => Uint8Array.from(atob(s), (c) => c.charCodeAt(0)), out = [];
		for (const [file, policy] of %s) out.push(await sealtapVerify(read(file), read(policy)));
		return out;
	})()`, text), &out)
	return out
}

// TestPageForgeries: every forgery that our own verifier is tested with, and every kind
// of evidence that it takes.
func TestPageForgeries(t *testing.T) {
	p := verifierPage(t)
	var list []sample
	for _, f := range forgeries() {
		x := newExhibit(t)
		f.do(x)
		list = append(list, sample{f.name, x.proven.Marshal(), x.policy.Marshal()})
	}
	forged := len(list)
	x := newExhibit(t)
	good, policyText := x.proven.Marshal(), string(x.policy.Marshal())
	add := func(name string, file []byte, policy string) { list = append(list, sample{name, file, []byte(policy)}) }
	add("another log's policy", good, string(newExhibit(t).policy.Marshal()))
	add("no pin", good, policyText[strings.Index(policyText, "\n")+1:])
	add("no quorum asked for", good, strings.Replace(policyText, "quorum both", "quorum none", 1))
	for _, groups := range []string{"group both any w1 w2", "group one any w1\ngroup both 2 w2 one", "group one all w1\ngroup two 1 w2\ngroup both all one two", "group b 2 w1 w2\ngroup both 01 b"} {
		add(groups, good, strings.Replace(policyText, "group both all w1 w2", groups, 1))
	}
	for _, bad := range []string{"group both 3 w1 w2", "group both all w1 w1", "group both all w1 w3", "group both 0 w1", "group w1 all w1 w2", "group none all w1", "group both", "quorum w1"} {
		add(bad, good, strings.Replace(policyText, "group both all w1 w2", bad, 1))
	}
	for _, line := range []string{"\t # a comment", " ", "#sealtap-operator x", "# sealtap-operators", "witness", "log x", "\x01", "\xa0", "\xff # x", "# \xff\xa0"} {
		add(fmt.Sprintf("policy with %q", line), good, policyText+line+"\n")
		add(fmt.Sprintf("policy that begins with %q", line), good, line+"\n"+policyText)
	}
	retention := x.put(record.NewRetention(origin, 2, record.Retention{Keep: time.Hour, Entries: 9}, x.operator))
	closed := x.put(record.NewClose(origin, 3, key(t, "log.example/next", keys.Ed25519).Public, x.operator))
	stranger := x.put([]byte{1, 0x77, 'x'}, nil)
	x.again(nil)
	several := x.proven.Marshal()
	for name, e := range map[string]record.Evidence{
		"genesis": {Entry: x.entries[0], Log: x.inLog(0)}, "key change": {Entry: x.entries[1], Log: x.inLog(1)},
		"seal":      {Entry: x.entries[4], Log: x.inLog(4), KeyChange: x.statement(1)},
		"retention": {Entry: x.entries[retention], Log: x.inLog(retention)}, "close": {Entry: x.entries[closed], Log: x.inLog(closed)},
		"unknown kind": {Entry: x.entries[stranger], Log: x.inLog(stranger)},
	} {
		e.Genesis = x.statement(0)
		add(name, e.Marshal(), policyText)
		several = append(several, e.Marshal()...)
		beside := e
		beside.Beacon = x.proven.Beacon
		add(name+" with a beacon", beside.Marshal(), policyText)
		beside = e
		beside.Openings = x.proven.Openings
		add(name+" with an opening", beside.Marshal(), policyText)
		beside = e
		beside.KeyChange = x.statement(1)
		add(name+" with an enrolment", beside.Marshal(), policyText)
		beside.Producer = x.proven.Producer
		add(name+" with a producer", beside.Marshal(), policyText)
	}
	add("several", several, policyText)
	add("several, the last without its end", several[:len(several)-1], policyText)
	add("twice the first line", append([]byte("sealtap/evidence/v1\n\n"), good...), policyText)
	add("another version", bytes.Replace(good, []byte("/v1"), []byte("/v2"), 1), policyText)
	add("other line ends", bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n")), policyText)
	add("nothing", nil, policyText)
	for i := range good { // base64 has bits without meaning before its padding
		if good[i] == '=' && good[i-1] != '=' {
			add(fmt.Sprintf("spare bits at %d", i), spare(good, i-1), policyText)
		}
	}
	x.proven.Beacon, x.proven.Openings = nil, nil
	lone := x.proven.Marshal()
	add("no beacon", lone, policyText)
	for i := range lone {
		if lone[i] == '=' && lone[i-1] != '=' {
			add(fmt.Sprintf("no beacon, spare bits at %d", i), spare(lone, i-1), policyText)
		}
	}
	counts := judge(t, p, list)
	if counts[audit.Pass] < 15 || counts[audit.Fail] < forged || counts[audit.Incomplete] < 8 {
		t.Errorf("%v: the samples are not what they should be", counts)
	}
}

// spare changes an unused bit of base64: the lowest that the letter at i has.
func spare(b []byte, i int) []byte {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	b = bytes.Clone(b)
	b[i] = letters[strings.IndexByte(letters, b[i])^1]
	return b
}

// TestPageOmissions: evidence of omissions, good and forged.
func TestPageOmissions(t *testing.T) {
	p := verifierPage(t)
	var list []sample
	for name, do := range map[string]func(w *world, p *producer, o *record.Omission){
		"withheld": func(*world, *producer, *record.Omission) {},
		"no seal":  func(_ *world, _ *producer, o *record.Omission) { o.Seal = nil },
		"an earlier seal": func(w *world, _ *producer, o *record.Omission) {
			o.Seal = &record.Proven{Entry: w.entries[4]}
		},
		"a record for the seal": func(w *world, _ *producer, o *record.Omission) { o.Seal = &record.Proven{Entry: w.entries[3]} },
		"a seal of another incarnation": func(w *world, p *producer, o *record.Omission) {
			p.restart(nil)
			o.Seal = &record.Proven{Entry: w.entries[p.seal()]}
		},
		"another record in its place": func(w *world, p *producer, o *record.Omission) {
			p.seq--
			o.Other = &record.Proven{Entry: w.entries[p.request("/other")]}
		},
		"another record elsewhere": func(w *world, _ *producer, o *record.Omission) { o.Other = &record.Proven{Entry: w.entries[3]} },
		"the promised record": func(w *world, p *producer, o *record.Omission) {
			o.Other = &record.Proven{Entry: w.entries[w.put(p.entries[len(p.entries)-1], nil)]}
		},
		"not yet due":         func(w *world, _ *producer, _ *record.Omission) { w.now -= int64(50 * time.Second) },
		"just not yet due":    func(w *world, _ *producer, _ *record.Omission) { w.now -= int64(46 * time.Second) },
		"no enrolment":        func(w *world, _ *producer, o *record.Omission) { o.KeyChange = &record.Proven{Entry: w.entries[0]} },
		"another index":       func(_ *world, _ *producer, o *record.Omission) { o.Receipt.Index = 1 },
		"a larger batch":      func(_ *world, _ *producer, o *record.Omission) { o.Receipt.Count = 2 },
		"another key's name":  func(_ *world, _ *producer, o *record.Omission) { o.Receipt.Name = "shoq" },
		"another key's ID":    func(_ *world, _ *producer, o *record.Omission) { o.Receipt.KeyHash++ },
		"another promise":     func(_ *world, _ *producer, o *record.Omission) { o.Receipt.Delay-- },
		"a time before 1970":  func(_ *world, _ *producer, o *record.Omission) { o.Receipt.Time = -1 },
		"a path out of place": func(_ *world, _ *producer, o *record.Omission) { o.Receipt.Path = make([]record.Hash, 1) },
	} {
		w, producer, o := omitted(t, 10)
		do(w, producer, o)
		list = append(list, sample{name, omissionText(t, w, o), w.policy.Marshal()})
	}
	w, _, o := omitted(t, 10)
	text := omissionText(t, w, o)
	list = append(list, sample{"no quorum asked for", text, bytes.Replace(w.policy.Marshal(), []byte("quorum both"), []byte("quorum none"), 1)},
		sample{"a section twice", append(bytes.Clone(text), text[bytes.Index(text, []byte("-- genesis")):]...), w.policy.Marshal()})
	if counts := judge(t, p, list); counts[audit.Pass] < 3 || counts[audit.Fail] < 10 {
		t.Errorf("%v: the samples are not what they should be", counts)
	}
}

// TestPageKeys: logs with two keys, and a browser that has no ML-DSA-44. Then what that
// key signed is not checked, and not counted either: the page never passes what we do
// not pass, nor fails what we do not fail.
func TestPageKeys(t *testing.T) {
	p := verifierPage(t)
	x := newExhibit(t)
	x.quantum = key(t, origin, keys.MLDSA44)
	statement := x.change(record.KeyChange{Log: []keys.Public{x.quantum.Public}})
	forged := x.put(record.NewKeyChange(record.KeyChange{Origin: origin, Number: x.changes + 1, Log: []keys.Public{x.quantum.Public}}, key(t, "operator.example", keys.Ed25519)))
	other := x.put(record.NewKeyChange(record.KeyChange{Origin: origin, Number: x.changes + 2, Log: []keys.Public{key(t, origin, keys.MLDSA44).Public}}, x.operator))
	var list []sample
	policies := map[string][]byte{"classic": x.trusting(x.log).Marshal(), "post-quantum": x.trusting(x.quantum).Marshal(), "both": x.trusting(x.log, x.quantum).Marshal()}
	prove := func(name string, head []byte) {
		x.again(head)
		for _, at := range []int{-1, statement, forged, other, 1, x.index} {
			x.proven.LogKey = nil
			if at >= 0 {
				x.proven.LogKey = x.statement(at)
			}
			for which, policyText := range policies {
				list = append(list, sample{fmt.Sprintf("%s, the key named at %d, trusting %s", name, at, which), x.proven.Marshal(), policyText})
			}
		}
	}
	good := x.checkpoint(len(x.entries), x.witnesses...)
	prove("good", good)
	prove("a false post-quantum line", damageLine(t, good, x.quantum))
	prove("a false line", damageLine(t, good, x.log))
	again := x.checkpoint(len(x.entries)) // such signatures are random
	prove("two post-quantum lines", append(bytes.Clone(good), again[bytes.LastIndex(again, []byte("— ")):]...))
	x.p.entries[6] = x.remake(6, beacon(damageLine(t, x.checkpoint(5, x.witnesses...), x.quantum)))
	x.reseal(7, 6)
	prove("a false post-quantum line in the beacon", good)
	if counts := judge(t, p, list); counts[audit.Pass] < 10 || counts[audit.Fail] < 10 {
		t.Errorf("%v: the samples are not what they should be", counts)
	}

	p.Eval(`{ const known = crypto.subtle.importKey.bind(crypto.subtle);
		crypto.subtle.importKey = async (f, k, a, ...rest) => { if (a.name === "ML-DSA-44") throw new DOMException("", "NotSupportedError"); return known(f, k, a, ...rest); }; }`, nil)
	unchecked := 0
	for i, got := range theirsOf(p, list) {
		want := ours(list[i].file, list[i].policy)
		if got.Verdict != want.Verdict && got.Verdict != audit.Incomplete || strings.HasSuffix(list[i].name, "classic") && got.Verdict != want.Verdict {
			t.Errorf("%s, without ML-DSA-44:\n  Go   %s %s\n  page %s %s", list[i].name, want.Verdict, want.Reason, got.Verdict, got.Reason)
		}
		if want.Verdict == audit.Pass && got.Verdict == audit.Incomplete {
			unchecked++
		}
	}
	if unchecked < 5 {
		t.Errorf("%d incomplete for want of ML-DSA-44", unchecked)
	}
}

// TestPageSignatures: what can stand below a checkpoint.
func TestPageSignatures(t *testing.T) {
	p := verifierPage(t)
	x := newExhibit(t)
	_, root := clienttest.Tiles(x.entries)
	body := checkpoint.Body{Origin: origin, Size: uint64(len(x.entries)), Root: root}
	now := x.now / int64(time.Second)
	alone := x.sign(body)
	line := func(w int, at int64) string { return cosign(t, x.witnesses[w], body, at) }
	stranger := key(t, "w1.example", keys.Cosignature)
	strange := cosign(t, stranger, body, now)
	loose := strings.Replace(cosign(t, key(t, "x", keys.Cosignature), body, now), "=\n", "x=\n", 1) // another length
	both := line(0, now) + line(1, now)
	false1 := string(damageLine(t, []byte(line(0, now)), x.witnesses[0]))
	var list []sample
	for name, below := range map[string]string{
		"none": "", "one": line(0, now), "both": both, "the other order": line(1, now) + line(0, now), "one twice": line(0, now) + both,
		"the log again":      string(alone[bytes.LastIndex(alone, []byte("— ")):]) + both,
		"two times, rising":  line(0, now) + line(0, now+9) + line(1, now),
		"two times, falling": line(0, now+9) + line(0, now) + line(1, now),
		"too early":          line(0, now-100) + line(1, now-100),
		"before the beacon":  line(0, now-8) + line(1, now-8),
		"time 0":             line(0, 0) + line(1, now), "time 0 first": line(0, 0) + both, "time 0 last": both + line(0, 0),
		"far away":     line(0, 1<<62) + line(1, now),
		"false beside": both + false1, "false only": false1 + line(1, now),
		"a stranger": both + strange, "a stranger with the name of a witness": strange + line(1, now),
		"loose base64": both + loose, "no base64": both + "— x !\n", "a short one": both + "— x AAAA\n", "one of five bytes": both + "— x AAAAAAA=\n",
		"spare bits": both + "— x AAAAAAB=\n", "spare bits of a known one": string(spare([]byte(both), strings.IndexByte(both, '=')-1)),
		"an empty line": both + "\n", "an empty line before": "\n" + both, "no line": both + "x\n", "two spaces": both + "—  x AAAAAAA=\n",
		"a plus in the name": both + "— x+y AAAAAAA=\n", "a wide space": both + "— x\u3000y AAAAAAA=\n", "a next line": both + "— x\u0085y AAAAAAA=\n", "a BOM": both + "— x\ufeffy AAAAAAA=\n",
		"a tab": both + "— x\ty AAAAAAA=\n", "no UTF-8": both + "— x\xff AAAAAAA=\n", "98 strangers": both + many(97), "99 strangers": both + many(98),
		"a long line": both + "— x " + strings.Repeat("AAAA", 16380) + "\n", "a longer line": both + "— x " + strings.Repeat("AAAA", 16400) + "\n",
		"section in a note": both + "-- x AAAAAAA=\n",
	} {
		head := append(bytes.Clone(alone), below...)
		x.again(head)
		list = append(list, sample{name, x.proven.Marshal(), x.policy.Marshal()})
	}
	x.again(append(spare(alone, bytes.LastIndexByte(alone, '=')-1), both...))
	list = append(list, sample{"spare bits of the log's own", x.proven.Marshal(), x.policy.Marshal()})
	x.again(x.sign(body, x.witnesses...))
	five := checkpoint.Body{Origin: origin, Size: 5, Root: [32]byte{9}}
	for name, signed := range map[string]string{
		"nothing": "", "no note": "x", "no quorum": string(x.sign(five, x.witnesses[0])), "a quorum": string(x.sign(five, x.witnesses...)),
		"a false cosignature":               string(x.sign(five, x.witnesses[0])) + line(1, now),
		"a false cosignature and no quorum": string(x.sign(five)) + line(1, now),
		"by a stranger":                     string(signText(key(t, origin, keys.Ed25519), string(five.Marshal()))),
		"a false signature":                 string(damageLine(t, x.sign(five, x.witnesses...), x.log)),
		"no entries, another root":          string(x.sign(checkpoint.Body{Origin: origin, Root: [32]byte{9}}, x.witnesses...)),
		"no entries":                        string(x.sign(checkpoint.Body{Origin: origin, Root: checkpoint.EmptyRoot()}, x.witnesses...)),
		"a large size":                      string(x.sign(checkpoint.Body{Origin: origin, Size: 1 << 63}, x.witnesses...)),
		"another origin":                    string(x.sign(checkpoint.Body{Origin: "log.example/other", Size: 5}, x.witnesses...)),
	} {
		x.p.entries[6] = x.remake(6, beacon([]byte(signed)))
		x.reseal(7, 6)
		list = append(list, sample{"beacon: " + name, x.proven.Marshal(), x.policy.Marshal()})
	}
	if counts := judge(t, p, list); counts[audit.Pass] < 10 || counts[audit.Fail] < 10 {
		t.Errorf("%v: the samples are not what they should be", counts)
	}
}
