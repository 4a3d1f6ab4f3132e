package policy

import (
	"fmt"
	"math/bits"
	"strings"
)

// Analysis is what a policy comes to.
type Analysis struct {
	// Least is how many witnesses at least make a head count: so many must lie
	// together with the log for it to show two histories. 0: the log is enough.
	Least int
	// Spare is how many witnesses can be away, whichever they are, without keeping
	// heads from counting.
	Spare int
	// Apart is set where two quorums have no witness in common: then two histories
	// can count although no witness lies.
	Apart bool
	// Idle are the witnesses on which nothing depends.
	Idle []string
}

// mostAnalysed bounds the work, which doubles with each witness.
const mostAnalysed = 20

// Analyse looks at every set of witnesses. It reports false where there are too
// many for that.
func (p *Policy) Analyse() (Analysis, bool) {
	n := len(p.Witnesses)
	if n > mostAnalysed {
		return Analysis{}, false
	}
	if p.Quorum == None {
		a := Analysis{Spare: n, Apart: true}
		for _, w := range p.Witnesses {
			a.Idle = append(a.Idle, w.Name)
		}
		return a, true
	}
	good := make([]bool, 1<<n)
	names := make(map[string]bool, n)
	for set := range good {
		for i, w := range p.Witnesses {
			names[w.Name] = set>>i&1 == 1
		}
		good[set] = p.Satisfied(names)
	}
	a, all, matters := Analysis{Least: n, Spare: n}, 1<<n-1, 0
	for set, ok := range good {
		k := bits.OnesCount(uint(set))
		if ok {
			a.Least = min(a.Least, k)
			a.Apart = a.Apart || good[all&^set]
		} else {
			a.Spare = min(a.Spare, n-k-1) // those outside are away, and that is too many
		}
		for i := range n {
			if ok && !good[set&^(1<<i)] {
				matters |= 1 << i
			}
		}
	}
	for i, w := range p.Witnesses {
		if matters>>i&1 == 0 {
			a.Idle = append(a.Idle, w.Name)
		}
	}
	return a, true
}

// Explain says in words who must agree for a head to count.
func (p *Policy) Explain() string {
	var b strings.Builder
	for _, l := range p.Logs {
		fmt.Fprintf(&b, "log %s: its checkpoints must be signed by key %s", l.Key.Name, l.Key.ID())
		if l.URL != "" {
			fmt.Fprintf(&b, "; it is read at %s", l.URL)
		}
		b.WriteString("\n")
	}
	if p.Operator != nil {
		fmt.Fprintf(&b, "operator %s: says who may write to the log, with key %s\n", p.Operator.Name, p.Operator.ID())
	} else {
		b.WriteString("no operator is pinned: whoever the log's first entry names is believed\n")
	}
	if p.Quorum == None {
		b.WriteString("A head counts with the log's signature alone: nobody keeps the log from showing two histories.\n")
		return b.String()
	}
	fmt.Fprintf(&b, "A head counts once it is cosigned by %s.\n", p.words(p.Quorum))
	a, ok := p.Analyse()
	if !ok {
		return b.String()
	}
	fmt.Fprintf(&b, "To show two histories the log needs the help of %s.\n", plural(a.Least, "witness", "witnesses"))
	if a.Apart {
		b.WriteString("WARNING: two quorums can have no witness in common, so two histories can count although no witness lies.\n")
	}
	if a.Spare == 0 {
		b.WriteString("WARNING: there is a witness whose absence stops all heads.\n")
	} else {
		fmt.Fprintf(&b, "Heads go on while any %s away.\n", plural(a.Spare, "witness is", "witnesses are"))
	}
	for _, name := range a.Idle {
		fmt.Fprintf(&b, "WARNING: nothing depends on witness %s.\n", name)
	}
	return b.String()
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// words describes a witness or a group.
func (p *Policy) words(name string) string {
	g, ok := p.groups[name]
	if !ok {
		return name
	}
	var members []string
	for _, m := range g.Members {
		members = append(members, p.words(m))
	}
	list := strings.Join(members, ", ")
	switch {
	case len(members) == 1:
		return members[0]
	case g.K == len(members):
		return "(all of " + list + ")"
	case g.K == 1:
		return "(any of " + list + ")"
	}
	return fmt.Sprintf("(%d of %s)", g.K, list)
}
