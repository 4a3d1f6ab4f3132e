// Package policy says which logs to trust, and which witnesses must have
// cosigned a checkpoint before it counts. It implements C2SP tlog-policy
// (https://c2sp.org/tlog-policy) over the signatures of C2SP tlog-cosignature
// (https://c2sp.org/tlog-cosignature).
//
// Start with [Parse], then call [Policy.Verify] with every checkpoint.
//
// One convention is Sealtap's own, and a comment to every other reader: a line
//
//	# sealtap-operator <vkey>
//
// pins the key of the log's operator, for which tlog-policy has no place.
package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
)

var (
	// ErrInvalid is wrapped by every error about a policy itself.
	ErrInvalid = errors.New("invalid policy")
	// ErrUnknownLog is wrapped where the policy has no log of a checkpoint's origin.
	ErrUnknownLog = errors.New("unknown log")
	// ErrQuorum is wrapped where the witnesses that cosigned do not satisfy the quorum.
	ErrQuorum = errors.New("quorum not met")
	// ErrSignature is wrapped where the log did not sign, or where a signature
	// that claims to be by a known key does not verify.
	ErrSignature = checkpoint.ErrSignature
	// ErrMalformed is wrapped where a checkpoint is not one.
	ErrMalformed = checkpoint.ErrMalformed
)

// None is the name that stands for a quorum of no witness at all.
const None = "none"

// Policy is a trust policy. It is made by [Parse] or [New] and must not be
// changed afterwards; it may be used by several goroutines.
type Policy struct {
	Logs      []Log
	Witnesses []Witness
	Groups    []Group      // each names only witnesses, and groups before it
	Quorum    string       // a witness, a group, or [None]
	Operator  *keys.Public // nil where the policy does not pin the operator

	groups map[string]Group
	logs   map[string]verifiers // by origin
	known  map[signer]cosigner
}

// Log is a log whose checkpoints are trusted. Its origin is the name of its key.
type Log struct {
	Key keys.Public
	URL string // empty where the policy gives none
}

// Witness is a cosigner of checkpoints.
type Witness struct {
	Name string // means something in the policy only; need not be that of the key
	Key  keys.Public
	URL  string // submission prefix of tlog-witness; empty where the policy gives none
}

// Group counts as having witnessed a checkpoint once K of its members have.
type Group struct {
	Name    string
	K       int // 1 to len(Members)
	Members []string
}

// New makes a policy from its parts, under the same rules as [Parse]. The
// operator may be nil.
func New(logs []Log, witnesses []Witness, groups []Group, quorum string, operator *keys.Public) (*Policy, error) {
	p := &Policy{Logs: logs, Witnesses: witnesses, Groups: groups, Quorum: quorum, Operator: operator}
	for _, l := range logs {
		if l.URL != "" && !isItem(l.URL) {
			return nil, fmt.Errorf("%w: the URL of log %s holds white space or a control character", ErrInvalid, l.Key.Name)
		}
	}
	for _, w := range witnesses {
		if !isItem(w.Name) || w.URL != "" && !isItem(w.URL) {
			return nil, fmt.Errorf("%w: the name or URL of witness %q is empty, or holds white space or a control character", ErrInvalid, w.Name)
		}
	}
	for _, g := range groups {
		if !isItem(g.Name) || slices.ContainsFunc(g.Members, func(m string) bool { return !isItem(m) }) {
			return nil, fmt.Errorf("%w: a name in group %q is empty, or holds white space or a control character", ErrInvalid, g.Name)
		}
	}
	if !isItem(quorum) {
		return nil, fmt.Errorf("%w: %q cannot name a quorum", ErrInvalid, quorum)
	}
	return Parse(p.Marshal())
}

// Also returns the policy with more keys of logs, beside those that it has. It is
// the policy of somebody who knows these logs from elsewhere, such as their own.
func (p *Policy) Also(logs ...keys.Public) (*Policy, error) {
	list := slices.Clone(p.Logs)
	for _, k := range logs {
		if !slices.ContainsFunc(list, func(l Log) bool { return l.Key.String() == k.String() }) {
			list = append(list, Log{Key: k})
		}
	}
	return New(list, p.Witnesses, p.Groups, p.Quorum, p.Operator)
}

// isItem reports whether s can stand as one item on a line of a policy file.
func isItem(s string) bool {
	for i := range len(s) {
		if !allowed(s[i]) || isBlank(rune(s[i])) || s[i] == '\n' {
			return false
		}
	}
	return s != ""
}

// LogByOrigin returns the first log of the origin, and reports whether there is
// one. (A log that changes its key has several while it does.)
func (p *Policy) LogByOrigin(origin string) (Log, bool) {
	for _, l := range p.Logs {
		if l.Key.Name == origin {
			return l, true
		}
	}
	return Log{}, false
}

// Satisfied reports whether the witnesses of these policy names satisfy the
// quorum.
func (p *Policy) Satisfied(names map[string]bool) bool {
	times := make(map[string]int64, len(names))
	for name, cosigned := range names {
		if cosigned {
			times[name] = 0
		}
	}
	_, ok := p.reached(p.Quorum, times)
	return ok || p.Quorum == None
}

// QuorumTime returns the earliest second at which the cosignatures made until
// then satisfied the quorum, and reports whether there is such a second. There
// is none under [None], where nobody vouches for a time.
func (p *Policy) QuorumTime(cosignatures []Cosignature) (unix int64, ok bool) {
	times := make(map[string]int64, len(cosignatures))
	for _, c := range cosignatures {
		if t, ok := times[c.Witness]; !ok || c.Time < t {
			times[c.Witness] = c.Time
		}
	}
	return p.reached(p.Quorum, times)
}

// reached returns when the witness or group of this name had witnessed, given
// the times of single witnesses: a group does with its K-th member.
func (p *Policy) reached(name string, times map[string]int64) (int64, bool) {
	g, ok := p.groups[name]
	if !ok {
		t, ok := times[name]
		return t, ok && name != None
	}
	var at []int64
	for _, m := range g.Members {
		if t, ok := p.reached(m, times); ok {
			at = append(at, t)
		}
	}
	if len(at) < g.K {
		return 0, false
	}
	slices.Sort(at)
	return at[g.K-1], true
}

// String returns the policy as [Policy.Marshal] does.
func (p *Policy) String() string { return string(p.Marshal()) }

// Marshal returns the policy as a policy file. [Parse] gives an equal policy.
func (p *Policy) Marshal() []byte {
	var b strings.Builder
	if p.Operator != nil {
		fmt.Fprintf(&b, "# %s %s\n", operatorTag, p.Operator)
	}
	for _, l := range p.Logs {
		writeLine(&b, "log", l.Key.String(), l.URL)
	}
	for _, w := range p.Witnesses {
		writeLine(&b, "witness", w.Name, w.Key.String(), w.URL)
	}
	for _, g := range p.Groups {
		writeLine(&b, append([]string{"group", g.Name, threshold(g)}, g.Members...)...)
	}
	writeLine(&b, "quorum", p.Quorum)
	return []byte(b.String())
}

// writeLine writes the items that are not empty as one line.
func writeLine(b *strings.Builder, items ...string) {
	items = slices.DeleteFunc(items, func(s string) bool { return s == "" })
	b.WriteString(strings.Join(items, " ") + "\n")
}

// threshold returns K as it is easiest to read.
func threshold(g Group) string {
	switch g.K {
	case len(g.Members):
		return "all"
	case 1:
		return "any"
	}
	return fmt.Sprint(g.K)
}
