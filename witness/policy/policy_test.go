package policy_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	fnote "github.com/transparency-dev/formats/note"
	fwitness "github.com/transparency-dev/formats/witness"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness/policy"
)

// party is somebody who signs checkpoints.
type party struct {
	vkey   string
	signer note.Signer
}

func newParty(t testing.TB, name string, typ keys.Type) party {
	t.Helper()
	if typ == keys.MLDSA44 {
		skey, vkey, err := fnote.GenerateMLDSAKey(name)
		if err != nil {
			t.Fatal(err)
		}
		s, err := fnote.NewSignerForCosignatureV1(skey)
		if err != nil {
			t.Fatal(err)
		}
		return party{vkey, s}
	}
	k, err := keys.Generate(name, typ)
	if err != nil {
		t.Fatal(err)
	}
	s, err := k.Signer()
	if err != nil {
		t.Fatal(err)
	}
	return party{k.Public.String(), s}
}

// retype returns the vkey of the same public key with another name and type.
func retype(t testing.TB, vkey, name string, typ keys.Type) string {
	t.Helper()
	k, err := keys.ParsePublic(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return keys.Public{Name: name, Type: typ, Key: k.Key}.String()
}

// TestParse goes through the rules of tlog-policy. In the policies, L, M are
// vkeys of logs (M is ML-DSA-44), A to D of witnesses (D is ML-DSA-44), O of an operator.
func TestParse(t *testing.T) {
	l, m := newParty(t, "log.example/l", keys.Ed25519), newParty(t, "log.example/m", keys.MLDSA44)
	a, b := newParty(t, "w.example/a", keys.Cosignature), newParty(t, "w.example/b", keys.Cosignature)
	c, d := newParty(t, "w.example/c", keys.Cosignature), newParty(t, "w.example/d", keys.MLDSA44)
	o := newParty(t, "operator.example", keys.Ed25519)
	fill := strings.NewReplacer(
		"$L2", retype(t, l.vkey, "log.example/other", keys.Ed25519),
		"$LW", retype(t, l.vkey, "log.example/l", keys.Cosignature),
		"$A2", retype(t, a.vkey, "w.example/other", keys.Cosignature),
		"$AL", retype(t, a.vkey, "w.example/a", keys.Ed25519),
		"$L", l.vkey, "$M", m.vkey, "$A", a.vkey, "$B", b.vkey, "$C", c.vkey, "$D", d.vkey, "$O", o.vkey)

	const three = "witness a $A\nwitness b $B\nwitness c $C\n"
	for name, test := range map[string]struct {
		text string
		err  string // part of the error; empty: the policy is good
	}{
		"quorum only":                {text: "quorum none\n"},
		"no final newline":           {text: "quorum none"},
		"one log, no witness":        {text: "log $L\nquorum none\n"},
		"one witness":                {text: "log $L https://log.example/\nwitness a $A https://w.example/a\nquorum a\n"},
		"ML-DSA-44":                  {text: "log $M\nwitness d $D\nquorum d\n"},
		"groups any, all, k":         {text: three + "group g any a b\ngroup h all g c\nquorum h\n"},
		"numbered group":             {text: three + "group g 2 a b c\nquorum g\n"},
		"group of one":               {text: three + "group g 1 a\nquorum g\n"},
		"k of all":                   {text: three + "group g 3 a b c\nquorum g\n"},
		"logs after the quorum":      {text: "witness a $A\nquorum a\nlog $L\nwitness b $B\ngroup g all b\nlog $M\n"},
		"quorum none with witnesses": {text: three + "quorum none\n"},
		"quorum on a group's member": {text: three + "group g any a b\nquorum a\n"},
		"blanks and comments":        {text: "\n \t \n# log nonsense\n\t # x\nwitness\t a \t $A\t\n  quorum a \n#\n\n"},
		"non-ASCII everywhere":       {text: "# \xff\xfe é\nwitness \xe2\x84\xaa $A https://wé.example/\xc3\xa9\nwitness K $B\nquorum \xe2\x84\xaa\n"},
		"no-break space in a name":   {text: "witness a\u00a0b $A\nquorum a\u00a0b\n"},
		"keywords as names":          {text: "witness all $A\nwitness any $B\nwitness 2 $C\ngroup quorum all all any 2\nquorum quorum\n"},
		"log's key also a witness":   {text: "log $L\nwitness a $LW\nquorum a\n"},
		"operator":                   {text: "# sealtap-operator $O\nquorum none\n"},

		"empty":                        {text: "", err: "no quorum"},
		"no quorum":                    {text: three, err: "no quorum"},
		"two quorums":                  {text: "quorum none\n" + three + "quorum a\n", err: "line 5: the quorum is defined on line 1"},
		"quorum not defined":           {text: "quorum a\n" + three, err: `line 1: quorum "a" is not defined`},
		"quorum of two":                {text: three + "quorum a b\n", err: "line 4: a quorum line reads"},
		"quorum of none at all":        {text: "quorum\n", err: "line 1: a quorum line reads"},
		"unknown line":                 {text: "quorum none\nwitnes a $A\n", err: `line 2: "witnes" begins no line`},
		"upper-case keyword":           {text: "Quorum none\n", err: "line 1:"},
		"carriage return":              {text: "quorum none\r\n", err: "line 1: the byte 0x0d"},
		"form feed":                    {text: "# a\n#\x0c\nquorum none\n", err: "line 2: the byte 0x0c"},
		"NUL in a comment":             {text: "#\x00\nquorum none\n", err: "line 1: the byte 0x00"},
		"DEL":                          {text: "#\x7f\nquorum none\n", err: "line 1: the byte 0x7f"},
		"log without key":              {text: "log\nquorum none\n", err: "line 1: a log line reads"},
		"log with three items":         {text: "log $L https://a/ https://b/\nquorum none\n", err: "line 1: a log line reads"},
		"comment at the end":           {text: "log $L # mine\nquorum none\n", err: "line 1:"},
		"URL that is none":             {text: "log $L log.example\nquorum none\n", err: "line 1: log log.example/l"},
		"log with a witness's type":    {text: "log $A\nquorum none\n", err: "line 1: log: key w.example/a has type 0x04"},
		"witness with a log's type":    {text: "witness a $AL\nquorum a\n", err: "line 1: witness a: key w.example/a has type 0x01"},
		"witness without key":          {text: "witness a\nquorum none\n", err: "line 1: a witness line reads"},
		"witness with four items":      {text: "witness a $A https://a/ x\nquorum a\n", err: "line 1: a witness line reads"},
		"damaged key":                  {text: "witness a $A=\nquorum none\n", err: "line 1: witness a: malformed key"},
		"same log":                     {text: "log $L\nlog $L https://x/\nquorum none\n", err: "line 2: the log on line 1 has the same public key"},
		"same log by another name":     {text: "log $L\nlog $L2\nquorum none\n", err: "line 2: the log on line 1 has the same public key"},
		"same witness":                 {text: "witness a $A\nwitness b $A\nquorum a\n", err: "line 2: the witness on line 1 has the same public key"},
		"same witness, other key name": {text: "witness a $A\nwitness b $A2\nquorum a\n", err: "line 2: the witness on line 1 has the same public key"},
		"same name":                    {text: "witness a $A\nwitness a $B\nquorum a\n", err: `line 2: the name "a" is defined on line 1`},
		"group named as a witness":     {text: three + "group a any b c\nquorum a\n", err: `line 4: the name "a" is defined on line 1`},
		"witness named none":           {text: "witness none $A\nquorum none\n", err: `line 1: the name "none" is reserved`},
		"group named none":             {text: three + "group none any a\nquorum none\n", err: `line 4: the name "none" is reserved`},
		"member none":                  {text: three + "group g any a none\nquorum g\n", err: `line 4: group g: member "none"`},
		"member not defined yet":       {text: "witness a $A\ngroup g any a b\nwitness b $B\nquorum g\n", err: `line 2: group g: member "b" is not defined`},
		"member of itself":             {text: three + "group g any g\nquorum g\n", err: `line 4: group g: member "g" is not defined`},
		"member twice":                 {text: three + "group g 2 a b a\nquorum g\n", err: `line 4: group g: "a" is a member of the group on line 4`},
		"member of two groups":         {text: three + "group g any a b\ngroup h all a c\nquorum h\n", err: `line 5: group h: "a" is a member of the group on line 4`},
		"group without members":        {text: three + "group g all\nquorum g\n", err: "line 4: a group line reads"},
		"threshold 0":                  {text: three + "group g 0 a b\nquorum g\n", err: "line 4: group g: the threshold is 0, of 2 members"},
		"threshold above":              {text: three + "group g 3 a b\nquorum g\n", err: "line 4: group g: the threshold is 3, of 2 members"},
		"threshold negative":           {text: three + "group g -1 a b\nquorum g\n", err: "neither any, nor all"},
		"threshold with plus":          {text: three + "group g +1 a b\nquorum g\n", err: "neither any, nor all"},
		"threshold in hexadecimal":     {text: three + "group g 0x1 a b\nquorum g\n", err: "neither any, nor all"},
		"threshold huge":               {text: three + "group g 99999999999999999999 a b\nquorum g\n", err: "neither any, nor all"},
		"threshold in capitals":        {text: three + "group g ALL a b\nquorum g\n", err: "neither any, nor all"},
		"operator damaged":             {text: "quorum none\n# sealtap-operator $Ox\n", err: "line 2: operator: malformed key"},
		"operator without key":         {text: "#sealtap-operator\nquorum none\n", err: "line 1: the comment reads"},
		"operator twice":               {text: "# sealtap-operator $O\n# sealtap-operator $O\nquorum none\n", err: "line 2: a second operator"},
		"operator with wrong type":     {text: "# sealtap-operator $A\nquorum none\n", err: "line 1: operator: a key of type 0x04"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := policy.Parse([]byte(fill.Replace(test.text)))
			if test.err != "" {
				if !errors.Is(err, policy.ErrInvalid) || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("Parse = %v, want an error with %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			again, err := policy.Parse(p.Marshal())
			if err != nil || again.String() != p.String() {
				t.Errorf("Marshal gives\n%s\nwhich gives %v\n%v", p, err, again)
			}
			if (p.Operator != nil) != strings.Contains(test.text, "operator") {
				t.Errorf("operator is %v", p.Operator)
			}
		})
	}
}

// tlog-policy, "Implementation limits".
func TestLimits(t *testing.T) {
	var b strings.Builder
	for i := range 40 {
		fmt.Fprintf(&b, "log %s\nwitness w%d %s\n", newParty(t, fmt.Sprint("l", i), keys.Ed25519).vkey, i, newParty(t, "w", keys.Cosignature).vkey)
	}
	fmt.Fprintf(&b, "group g0 any w0\n")
	for i := 1; i < 40; i++ {
		fmt.Fprintf(&b, "group g%d all g%d w%d\n", i, i-1, i)
	}
	b.WriteString("quorum g39\n")
	p, err := policy.Parse([]byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]bool)
	for _, w := range p.Witnesses {
		all[w.Name] = true
	}
	if !p.Satisfied(all) {
		t.Error("all witnesses do not satisfy the quorum")
	}
	all["w7"] = false
	if p.Satisfied(all) {
		t.Error("the quorum is satisfied without w7")
	}
	if _, err := policy.Parse(make([]byte, 8<<20)); !errors.Is(err, policy.ErrInvalid) {
		t.Errorf("8 MiB: %v", err)
	}
}

func TestNew(t *testing.T) {
	l, _ := keys.ParsePublic(newParty(t, "log.example", keys.Ed25519).vkey)
	a, _ := keys.ParsePublic(newParty(t, "a.example", keys.Cosignature).vkey)
	b, _ := keys.ParsePublic(newParty(t, "b.example", keys.Cosignature).vkey)
	logs := []policy.Log{{Key: l, URL: "https://log.example/"}}
	ws := []policy.Witness{{Name: "a", Key: a}, {Name: "b", Key: b, URL: "https://b.example/"}}
	groups := []policy.Group{{Name: "g", K: 1, Members: []string{"a", "b"}}}
	p, err := policy.New(logs, ws, groups, "g", &l)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("# sealtap-operator %s\nlog %s https://log.example/\nwitness a %s\nwitness b %s https://b.example/\ngroup g any a b\nquorum g\n", l, l, a, b)
	if p.String() != want {
		t.Errorf("policy is\n%s\nwant\n%s", p, want)
	}
	if got, ok := p.LogByOrigin("log.example"); !ok || got.URL != "https://log.example/" {
		t.Errorf("LogByOrigin = %v, %v", got, ok)
	}
	for _, name := range []string{"", "a b", "a\nquorum", "a\tb"} {
		if _, err := policy.New(logs, []policy.Witness{{Name: name, Key: a}}, nil, policy.None, nil); !errors.Is(err, policy.ErrInvalid) {
			t.Errorf("New with witness %q: %v", name, err)
		}
	}
}

// The reference reads fewer policies and does not read them strictly, but where
// it reads one it must agree on what satisfies it.
func TestReference(t *testing.T) {
	const n = 6
	body := checkpoint.Body{Origin: "log.example", Size: 3, Root: [32]byte{1}}
	var ws []party
	var lines string
	for i := range n {
		ws = append(ws, newParty(t, fmt.Sprintf("w%d.example", i), keys.Cosignature))
		lines += fmt.Sprintf("witness w%d %s https://w%d.example/\n", i, ws[i].vkey, i)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		text := lines
		free := []string{"w0", "w1", "w2", "w3", "w4", "w5"}
		for g := 0; len(free) > 1; g++ {
			r.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
			size := 1 + r.IntN(len(free))
			text += fmt.Sprintf("group g%d %d %s\n", g, 1+r.IntN(size), strings.Join(free[:size], " "))
			free = append(free[size:], fmt.Sprintf("g%d", g))
			if g > 8 {
				break
			}
		}
		text += "quorum " + free[len(free)-1] + "\n"
		p, err := policy.Parse([]byte(text))
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		ref, err := fwitness.ParsePolicy([]byte(text))
		if err != nil {
			t.Fatalf("reference: %v in\n%s", err, text)
		}
		set := make(map[string]bool)
		var signers []note.Signer
		for i := range n {
			if r.IntN(2) == 0 {
				set[fmt.Sprintf("w%d", i)] = true
				signers = append(signers, ws[i].signer)
			}
		}
		if len(signers) == 0 {
			continue
		}
		signed, err := note.Sign(&note.Note{Text: string(body.Marshal())}, signers...)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := p.Satisfied(set), ref.Satisfied(signed); got != want {
			t.Errorf("Satisfied(%v) = %v, the reference says %v, of\n%s", set, got, want, text)
		}
	}
}

func TestQuorumTime(t *testing.T) {
	var lines string
	for _, n := range []string{"a", "b", "c", "d"} {
		lines += fmt.Sprintf("witness %s %s\n", n, newParty(t, n, keys.Cosignature).vkey)
	}
	for _, test := range []struct {
		rest  string
		times map[string]int64
		want  int64
		ok    bool
	}{
		{"quorum none", map[string]int64{"a": 7}, 0, false},
		{"quorum a", map[string]int64{"a": 7, "b": 1}, 7, true},
		{"quorum a", map[string]int64{"b": 1}, 0, false},
		{"group g any a b c\nquorum g", map[string]int64{"a": 7, "b": 5, "c": 9}, 5, true},
		{"group g 2 a b c\nquorum g", map[string]int64{"a": 7, "b": 5, "c": 9}, 7, true},
		{"group g 2 a b c\nquorum g", map[string]int64{"a": 7, "c": 9}, 9, true},
		{"group g 2 a b c\nquorum g", map[string]int64{"a": 7, "d": 9}, 0, false},
		{"group g all a b c\nquorum g", map[string]int64{"a": 7, "b": 5, "c": 9}, 9, true},
		{"group g any a b\ngroup h all g c\nquorum h", map[string]int64{"a": 8, "b": 6, "c": 3}, 6, true},
		{"group g all a b\ngroup h 1 g c\nquorum h", map[string]int64{"a": 8, "b": 6, "c": 9}, 8, true},
		{"group g 2 a b\ngroup h 2 g c d\nquorum h", map[string]int64{"a": 8, "c": 3, "d": 4}, 4, true},
		{"quorum a", map[string]int64{"none": 1, "x": 1}, 0, false},
	} {
		p, err := policy.Parse([]byte(lines + test.rest + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		var cs []policy.Cosignature
		for name, at := range test.times {
			cs = append(cs, policy.Cosignature{Witness: name, Time: at}, policy.Cosignature{Witness: name, Time: at + 100})
		}
		got, ok := p.QuorumTime(cs)
		if got != test.want || ok != test.ok {
			t.Errorf("%q with %v: QuorumTime = %d, %v, want %d, %v", test.rest, test.times, got, ok, test.want, test.ok)
		}
		// It is the earliest such second: until then satisfied, before then not.
		until := func(limit int64) map[string]bool {
			set := make(map[string]bool)
			for _, c := range cs {
				set[c.Witness] = set[c.Witness] || c.Time <= limit
			}
			return set
		}
		if ok && (!p.Satisfied(until(got)) || p.Satisfied(until(got-1))) {
			t.Errorf("%q with %v: %d is not the earliest second", test.rest, test.times, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	w := newParty(f, "w.example", keys.Cosignature).vkey
	l := newParty(f, "l.example", keys.Ed25519).vkey
	f.Add([]byte("quorum none\n"))
	f.Add([]byte("log " + l + "\nwitness w " + w + " https://w/\ngroup g any w\nquorum g\n"))
	f.Add([]byte("# sealtap-operator " + l + "\nwitness w " + w + "\ngroup g 1 w\ngroup h all g\nquorum h"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := policy.Parse(data)
		if err != nil {
			return
		}
		again, err := policy.Parse(p.Marshal())
		if err != nil || again.String() != p.String() {
			t.Fatalf("%q gives\n%s\nwhich gives %v, %v", data, p, again, err)
		}
		all := make(map[string]bool)
		for _, w := range p.Witnesses {
			all[w.Name] = true
		}
		if !p.Satisfied(all) {
			t.Fatalf("all witnesses do not satisfy\n%s", p)
		}
		if p.Satisfied(nil) != (p.Quorum == policy.None) {
			t.Fatalf("nobody satisfies\n%s", p)
		}
		if i := slices.IndexFunc(p.Groups, func(g policy.Group) bool { return g.K < 1 || g.K > len(g.Members) }); i >= 0 {
			t.Fatalf("group %v", p.Groups[i])
		}
	})
}

// TestAlso: more keys of a log join those that a policy has, each once.
func TestAlso(t *testing.T) {
	one, two := newParty(t, "log.example", keys.Ed25519), newParty(t, "log.example", keys.MLDSA44)
	w := newParty(t, "w.example", keys.Cosignature)
	p, err := policy.Parse([]byte("# sealtap-operator " + one.vkey + "\nlog " + one.vkey + " https://log.example/\nwitness w " + w.vkey + "\nquorum w\n"))
	if err != nil {
		t.Fatal(err)
	}
	var both []keys.Public
	for _, v := range []string{two.vkey, one.vkey, two.vkey} {
		k, err := keys.ParsePublic(v)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, k)
	}
	q, err := p.Also(both...)
	if err != nil || len(q.Logs) != 2 || q.Logs[0].URL != "https://log.example/" || q.Logs[1].Key.String() != two.vkey || q.Quorum != "w" || q.Operator == nil {
		t.Fatalf("%v, %v", q, err)
	}
	if len(p.Logs) != 1 {
		t.Error("the policy itself has changed")
	}
	// The same public key under another name is a duplicate (tlog-policy).
	again, err := keys.ParsePublic(retype(t, two.vkey, "other.example", keys.MLDSA44))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Also(again); !errors.Is(err, policy.ErrInvalid) {
		t.Errorf("one key of two logs: %v", err)
	}
}
