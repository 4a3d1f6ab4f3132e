package audit

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"github.com/sealtap/sealtap/record"
)

// The operator's statements are numbered, so none can be left out before one that
// is there. That the newest are there shows in a log that was pruned from what an
// earlier audit saw, or from what the operator tells; the log could leave them out
// of its list of those below the minimum index.

// stated is a statement of the operator by its number.
type stated struct {
	number uint64
	leaf   record.Hash
}

// stated takes a statement that was found to be the operator's next one.
func (p *producers) stated(it *item) {
	p.last = &stated{p.ring.Number, it.leaf}
	p.said = append(p.said, said{it.index, it.entry})
	if b := p.a.before.last; b != nil && b.number == p.last.number && b.leaf != p.last.leaf {
		p.a.add(finding(Fork, "the operator's statement %d, at index %d, is another one than an earlier audit saw: it signed two, and the log shows one to some and one to others",
			b.number, it.index).at(it.index))
	}
	p.a.report.Statements = Statements{Count: p.last.number, LastIndex: it.index, LastLeaf: b64(it.leaf)}
}

// compareStatements finds a log that shows fewer statements of its operator than
// an earlier audit saw, or than the operator says there are.
func (a *auditor) compareStatements() {
	if a.producers.ring == nil {
		return // there is a finding already
	}
	n := a.report.Statements.Count
	if b := a.before.last; b != nil && n < b.number {
		a.add(finding(Rollback, "the log shows %d statements of its operator, and an earlier audit saw %d: the newest are being left out, and with them perhaps who may not write any more, or what has to be kept", n, b.number))
	}
	if n < a.Options.Statements {
		a.add(finding(Rollback, "the log shows %d statements of its operator, who is said to have made %d: the newest are being left out, or were not in the log yet at this head", n, a.Options.Statements))
	}
}

// statementsWord begins the line of the state file with the newest statement.
const statementsWord = "statements "

func (s *stated) line() string {
	return statementsWord + strconv.FormatUint(s.number, 10) + " " + b64(s.leaf)
}

// parseStated is the inverse of line; it returns nil for any other spelling.
func parseStated(line string) *stated {
	number, leaf, _ := strings.Cut(strings.TrimPrefix(line, statementsWord), " ")
	n, err := strconv.ParseUint(number, 10, 64)
	h, err2 := base64.StdEncoding.DecodeString(leaf)
	if err != nil || err2 != nil || len(h) != len(record.Hash{}) {
		return nil
	}
	if s := (&stated{n, record.Hash(h)}); s.line() == line {
		return s
	}
	return nil
}

// text says how many statements there are, for people.
func (s Statements) text() string {
	switch s.Count {
	case 0:
		return "no statement beside the genesis"
	case 1:
		return fmt.Sprintf("1 statement, at index %d", s.LastIndex)
	}
	return fmt.Sprintf("%d statements, the newest at index %d", s.Count, s.LastIndex)
}
