package bundle

import (
	"fmt"
	"strings"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/witness/policy"
)

// conclude draws the conclusion from what was verified.
func (v *verifier) conclude() {
	r := v.report
	if v.m != nil {
		r.Filter, r.Unsealed = sortedFilter(v.m.Filter), v.m.Unsealed
		if len(r.Findings) == 0 && (r.Records != v.m.Records+v.m.Gaps || r.Gaps != v.m.Gaps) {
			v.find(Malformed, "the bundle holds %d records and %d declared gaps, its manifest says %d and %d", r.Records-r.Gaps, r.Gaps, v.m.Records, v.m.Gaps)
		}
		if len(r.Findings) == 0 && v.ring == nil {
			v.find(audit.GenesisInvalid, "the bundle holds no history of keys")
		}
		if len(r.Findings) == 0 && (r.Range == nil) != (v.m.Range == nil) {
			v.find(Malformed, "the bundle is not complete, although its manifest says so")
		}
	}
	unsure := v.compare()
	r.Verdict = audit.Pass
	for _, x := range r.Findings {
		if x.Severity == audit.Finds {
			r.Verdict = audit.Fail
		}
	}
	if unsure && r.Verdict == audit.Pass {
		r.Verdict = audit.Incomplete
	}
	if v.head != nil {
		v.sayProven()
		v.sayNotProven()
	}
}

// compare holds the bundle against a checkpoint that the caller has, and reports
// whether that could not be done.
func (v *verifier) compare() (unsure bool) {
	k, r := v.Known, v.report
	if k == nil || v.head == nil {
		return false
	}
	same := func(size uint64, root string) {
		if k.Size != size {
			return
		}
		if r.Compared = root == b64(k.Root); !r.Compared {
			v.add(audit.Finding{Code: audit.Fork, Severity: audit.Finds, Heads: []string{string(k.Note), string(v.head.Note)},
				Detail: fmt.Sprintf("the bundle is of another history than the checkpoint of %d entries that was given: there is another root", k.Size)})
		}
	}
	if k.Origin != v.head.Origin {
		v.find(audit.CheckpointSignature, "the bundle is of log %q, the checkpoint that was given of %q", v.head.Origin, k.Origin)
		return false
	}
	same(v.head.Size, r.Root)
	if r.Older != nil && k.Size != v.head.Size {
		same(r.Older.Size, r.Older.Root)
	}
	if r.Compared || v.failed(audit.Fork) {
		return false
	}
	r.NotProven = append(r.NotProven, fmt.Sprintf("That this log goes on from the checkpoint of %d entries that was given: ask for a bundle that was made with it (--since-checkpoint).", k.Size))
	return true
}

func (v *verifier) failed(c audit.Code) bool {
	for _, x := range v.report.Findings {
		if x.Code == c {
			return true
		}
	}
	return false
}

func (v *verifier) sayProven() {
	r := v.report
	say := func(format string, args ...any) { r.Proven = append(r.Proven, fmt.Sprintf(format, args...)) }
	if n := r.Records; n > 0 {
		say("%s in the log %s, each at the index that its evidence names, unchanged, under the head of %d entries.", count(n, "record stands", "records stand"), r.Origin, r.Size)
		say("Each was written by a producer that the operator had enrolled, and lies under a seal of that producer.")
		if r.Gaps > 0 {
			say("Of them, %s without records.", count(r.Gaps, "declares exchanges", "declare exchanges"))
		}
		v.sayTimes(say)
	}
	if len(r.CosignedBy) > 0 {
		say("That head was cosigned by %s, which satisfies the policy.", strings.Join(r.CosignedBy, ", "))
	}
	if r.Openings > 0 {
		say("%s what the records committed to.", count(r.Openings, "disclosed value is", "disclosed values are"))
	}
	if v.ring != nil {
		say("The operator's statements up to number %d are in the bundle, none of them left out in between.", v.ring.Number)
	}
	if o := r.Older; o != nil {
		how := "hold its root against the one that you have"
		if r.Compared {
			how = "it is the one that was given"
		}
		say("The log goes on from its head of %d entries with root %s, unchanged: %s.", o.Size, o.Root, how)
	} else if r.Compared {
		say("The head is the one that was given.")
	}
	if g := r.Range; g != nil {
		rest := ""
		if g.Unsettled > 0 {
			rest = fmt.Sprintf(", and %s of which no seal shows what it is", count(g.Unsettled, "leaf", "leaves"))
		}
		say("Entries %d to %d of the log are those in the bundle, all of them and no others, in this order: %s, %s shown in full%s.",
			g.First, g.End-1, count(g.Records, "record under a seal", "records under seals"), count(g.Others, "other entry", "other entries"), rest)
		say("The records of each producer in this range have sequences without a hole, each as its producer sealed it: %s.", v.sequences())
		say("%d of these records are shown in full; of the %d others the bundle shows the hash.", g.Shown, g.Records-g.Shown)
	}
}

// sequences lists the streams of a range, the first few of them.
func (v *verifier) sequences() string {
	var list []string
	for i, s := range v.report.Range.Streams {
		if i == 5 {
			list = append(list, fmt.Sprintf("and %d more", len(v.report.Range.Streams)-i))
			break
		}
		list = append(list, fmt.Sprintf("%s (incarnation %.8s) %d to %d", s.Producer, s.Incarnation, s.First, s.End-1))
	}
	return strings.Join(list, ", ")
}

func (v *verifier) sayTimes(say func(string, ...any)) {
	r := v.report
	claim := fmt.Sprintf("They say times from %s to %s", v.first.Format("2006-01-02T15:04:05.000Z"), v.last.Format("2006-01-02T15:04:05.000Z"))
	if r.CosignedAt == "" {
		say("%s; no witness vouches for any.", claim)
		return
	}
	after := ""
	if v.after != "" {
		after = fmt.Sprintf(", and after %s", v.after)
		if v.loose > 0 {
			after += fmt.Sprintf(" except for %d without a beacon", v.loose)
		}
	}
	say("%s. By the witnesses' clocks they were written before %s%s; each time lies within what bounds its record.", claim, r.CosignedAt, after)
}

func (v *verifier) sayNotProven() {
	r := v.report
	say := func(format string, args ...any) { r.NotProven = append(r.NotProven, fmt.Sprintf(format, args...)) }
	if !r.Pinned {
		say("Who the operator is: none is pinned, so the key in the log's genesis was believed.")
	}
	switch g := r.Range; {
	case g == nil:
		say("That nothing else in the log matches what was searched for (%s): a bundle of a search proves that its records are in the log, not that there are no others.", r.Filter)
	case g.Records > g.Shown:
		say("That none of the %d records that are shown as hashes matches what was searched for (%s): a hash does not tell what a record says.", g.Records-g.Shown, r.Filter)
	}
	if g := r.Range; g != nil {
		say("That the range of indices holds all records of a time: that is what its maker says of it. An audit shows it.")
		if g.Unsettled > 0 {
			say("What the %d leaves are of which no seal shows it.", g.Unsettled)
		}
	}
	if r.Unsealed > 0 {
		say("Anything about %s by its maker's word matched and lay under no seal yet.", count(r.Unsealed, "record that", "records that"))
	}
	say("That the operator has said nothing since: a later statement may have revoked a key.")
	say("That the checkpoints in the beacons are of the same history as the head. An audit of the log shows it.")
	say("What report.json and report.html say, which is the audit of the bundle's maker. An audit of your own shows it.")
	say("That what the records say is true: it is what their producers saw, or said.")
}

func count(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Text returns the report for people.
func (r *Report) Text() string {
	var b strings.Builder
	what := map[audit.Verdict]string{audit.Pass: "PROVEN", audit.Fail: "FAIL", audit.Incomplete: "INCOMPLETE"}[r.Verdict]
	head := what + ": "
	if r.Origin != "" {
		head += fmt.Sprintf("a bundle of %s of %s", count(r.Records-r.Gaps, "record", "records"), r.Origin)
	} else {
		head += "a bundle without a checkpoint that can be trusted"
	}
	b.WriteString(audit.Wrap("", head, 2))
	for _, x := range r.Findings {
		mark := "FOUND "
		if x.Severity == audit.Notes {
			mark = "notice "
		}
		if x.Index != nil {
			mark += fmt.Sprintf("%s at index %d", x.Code, *x.Index)
		} else {
			mark += string(x.Code)
		}
		b.WriteString(audit.Wrap("", mark, 2) + audit.Wrap("  ", x.Detail, 2))
	}
	if r.Omitted > 0 {
		fmt.Fprintf(&b, "and %d more\n", r.Omitted)
	}
	if r.Verdict == audit.Fail && len(r.Proven) > 0 {
		b.WriteString("Proven all the same:\n")
	}
	for _, s := range r.Proven {
		b.WriteString(audit.Wrap("  + ", s, 4))
	}
	if len(r.NotProven) > 0 {
		b.WriteString("Not proven by this bundle:\n")
	}
	for _, s := range r.NotProven {
		b.WriteString(audit.Wrap("  - ", s, 4))
	}
	return b.String()
}

// readmeText is what a bundle says of itself to people without a program.
func readmeText(m Manifest, older *policy.Checkpoint) []byte {
	var b strings.Builder
	para := func(format string, args ...any) {
		b.WriteString(audit.Wrap("", fmt.Sprintf(format, args...), 0) + "\n")
	}
	para("Records of the log %s, with their proofs", m.Origin)
	para("This is a bundle (%s) of %s, and of %s of exchanges without records, as they were searched for: %s.", Format, count(m.Records, "record", "records"), count(m.Gaps, "declaration", "declarations"), sortedFilter(m.Filter))
	para("Check it with nothing but your own copy of the policy, offline:")
	b.WriteString("    sealtap verify BUNDLE --policy policy.txt\n\n")
	para("Take the policy from where you trust it, not from here: policy.txt in the bundle is the maker's, to be compared. Each part of records.evidence is evidence as other verifiers of it take it, one after the other.")
	para("What it proves: each record stands in the log at its index, unchanged, under the checkpoint in this bundle, which the log signed and witnesses cosigned; its producer, whom the operator had enrolled, sealed it; it was written before the times of those cosignatures and after those in the beacon beside it.")
	if older != nil {
		para("It also proves that the log goes on, unchanged, from its checkpoint of %d entries (since-checkpoint).", older.Size)
	}
	if g := m.Range; g != nil {
		para("It is complete for entries %d to %d of the log: leaves shows each entry of that range, records by their hash, others in full. That proves that nothing was taken out of that range, added to it, altered or moved, and that the records of each producer in it have sequences without a hole, as the producer sealed them.", g.First, g.End-1)
		para("It does not prove what stands in a record of which only the hash is shown; so it does not prove that none of those matches the search. And that the range of indices is that of a time is what the maker says.")
	} else {
		para("It proves inclusion. It does not prove that nothing else matched: that is shown by an audit, or, for hashes, by a bundle made with --complete.")
	}
	if m.Unsealed > 0 {
		para("%s and were left out, because no seal of their producers covered them yet.", count(m.Unsealed, "more record matched", "more records matched"))
	}
	if m.Unseen > 0 {
		para("%s be held against every part of the search, because what it asks for is sealed in them or their request was not there; they are in the bundle.", count(m.Unseen, "record could not", "records could not"))
	}
	para("What records say is what their producers saw, or said. report.html is the maker's audit of the log, as of this checkpoint; an audit of your own shows the same, or not.")
	return []byte(b.String())
}
