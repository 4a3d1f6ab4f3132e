package bundle

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strings"

	merkle "github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/record"
)

// ranger follows the leaves of a range, in the log's tree and in those of producers.
type ranger struct {
	Range
	tree        *record.Tree // of the log, up to the leaf
	consistency [][]byte     // from there to the head
	streams     []*branch
	waiting     int // leaves of all streams
}

// branch is the part of a producer's tree in a range.
type branch struct {
	id          record.Stream
	first, end  uint64
	tree        *record.Tree
	consistency [][]byte
	pending     map[uint64]record.Hash
	beyond      uint64 // leaves behind end: no seal covers them
}

// readRange takes the member range.
func (v *verifier) readRange(b []byte) {
	g, err := parseRange(string(b))
	if err == nil && (g.Range != *v.m.Range || g.First >= g.End || g.End > v.head.Size) {
		err = fmt.Errorf("%w: the range is not the one in the manifest, or none of this log", ErrMalformed)
	}
	for i := 0; err == nil && i < len(g.streams); i++ {
		s := g.streams[i]
		seal := v.seals[s.id]
		switch {
		case s.end > s.first && seal == nil:
			err = fmt.Errorf("%w: there is no seal that stream %d can be held against", ErrMalformed, i)
		case s.end > s.first && s.end > seal.Size:
			err = fmt.Errorf("%w: the seal of stream %d is over %d records only", ErrMalformed, i, seal.Size)
		}
	}
	if err != nil {
		v.find(Malformed, "%v; so it is not proven that the range is complete", err)
		return
	}
	v.ranged = g
}

// parseRange parses the member range, in its one spelling.
func parseRange(text string) (*ranger, error) {
	g := new(ranger)
	p := rangeParser{rest: text}
	f := p.line("range", 2)
	g.First, g.End = p.number(f, 0), p.number(f, 1)
	g.tree = p.tree(g.First)
	g.consistency = p.hashes("consistency")
	seen := make(map[record.Stream]bool)
	for p.err == nil && p.rest != "" {
		f := p.line("stream", 5)
		if p.err != nil {
			break
		}
		s := &branch{first: p.number(f, 3), end: p.number(f, 4), pending: make(map[uint64]record.Hash)}
		if n := p.number(f, 0); n != uint64(len(g.streams)) || s.end < s.first {
			p.fail("stream %d is out of order", n)
		}
		id, err := record.ParseOrigin(record.OriginPrefix + f[1] + "/" + f[2])
		if err != nil || seen[id] {
			p.fail("stream %d is no stream, or stands there twice", len(g.streams))
		}
		s.id, seen[id] = id, true
		if s.end > s.first {
			s.tree = p.tree(s.first)
			s.consistency = p.hashes("consistency")
		}
		if g.streams = append(g.streams, s); len(g.streams) > maxStreams {
			p.fail("there are more than %d streams", maxStreams)
		}
	}
	return g, p.err
}

// rangeParser reads line by line; the first error stays.
type rangeParser struct {
	rest string
	err  error
}

func (p *rangeParser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf("%w: range: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
}

// line takes a line of a word and as many fields behind it.
func (p *rangeParser) line(word string, fields int) []string {
	line, rest, ok := strings.Cut(p.rest, "\n")
	f := strings.Split(line, " ")
	if p.err != nil || !ok || f[0] != word || len(f) != fields+1 {
		p.fail("%.80q is not a line of %q", line, word)
		return make([]string, fields)
	}
	p.rest = rest
	return f[1:]
}

func (p *rangeParser) number(f []string, i int) uint64 {
	n, err := checkpoint.ParseSize(f[i])
	if err != nil {
		p.fail("%.40q is no number", f[i])
	}
	return n
}

func (p *rangeParser) hashes(word string) (list [][]byte) {
	for p.err == nil && strings.HasPrefix(p.rest, word+" ") {
		h, err := hashOf(p.line(word, 1)[0])
		if err != nil || len(list) > 127 {
			p.fail("a line of %q holds no hash, or there are too many", word)
		}
		list = append(list, h[:])
	}
	return list
}

// tree takes the right edge of a tree of that size.
func (p *rangeParser) tree(size uint64) *record.Tree {
	list := p.hashes("edge")
	edge := make([]record.Hash, len(list))
	for i := range list {
		edge[i] = record.Hash(list[i])
	}
	if len(edge) != bits.OnesCount64(size) {
		p.fail("an edge of %d hashes, of a tree of %d", len(edge), size)
		return record.NewTree()
	}
	t, err := record.RestoreTree(size, edge)
	if err != nil {
		p.fail("%v", err)
		return record.NewTree()
	}
	return t
}

// readLeaves takes the member leaves, line by line, and holds it against the head and
// the seals.
func (v *verifier) readLeaves(r io.Reader) error {
	g := v.ranged
	out := &RangeReport{Range: g.Range, Streams: []StreamRange{}}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	lines.Split(wholeLines)
	index := g.First
	for ; lines.Scan(); index++ {
		if index >= g.End {
			v.find(Malformed, "there are more leaves than the range has places; so it is not proven that the range is complete")
			return nil
		}
		if err := v.leaf(index, lines.Text(), out); err != nil {
			v.add(audit.Finding{Code: Malformed, Severity: audit.Finds, Index: &index, Detail: fmt.Sprintf("the leaf at index %d: %v; so it is not proven that the range is complete", index, err)})
			return nil
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) || errors.Is(err, errUnended) {
		v.find(Malformed, "the line of the leaf at index %d is longer than any is, or has no end", index)
		return nil
	} else if err != nil {
		return err
	}
	if index != g.End {
		v.find(audit.RecordMissing, "the leaves end before index %d, and the range goes to %d: they have been taken away", index, g.End)
		return nil
	}
	if v.finishLog(g) && v.finishStreams(g, out) {
		v.report.Range = out
	}
	return nil
}

var errUnended = errors.New("a line without an end")

// wholeLines splits at newlines, and refuses a last line that has none.
func wholeLines(data []byte, atEOF bool) (int, []byte, error) {
	n, token, err := bufio.ScanLines(data, atEOF)
	if token != nil && n == len(token) {
		return 0, nil, errUnended
	}
	if n == len(token)+2 { // it had a carriage return
		token = data[:n-1]
	}
	return n, token, err
}

// leaf takes one line.
func (v *verifier) leaf(index uint64, line string, out *RangeReport) error {
	g := v.ranged
	f := strings.Split(line, " ")
	if f[0] == "entry" && len(f) == 2 {
		entry, err := base64.StdEncoding.Strict().DecodeString(f[1])
		if err != nil || base64.StdEncoding.EncodeToString(entry) != f[1] {
			return fmt.Errorf("%w: %.40q is no entry in base64", ErrMalformed, f[1])
		}
		if kind, _, err := record.Split(entry); err == nil && kind == record.KindRecord {
			return fmt.Errorf("%w: it is a record, and does not stand in its producer's tree", ErrMalformed)
		}
		if _, ok := v.disclosed[index]; ok {
			return fmt.Errorf("%w: a record is proven to stand there, and this is none", ErrMalformed)
		}
		g.tree.Append(record.LeafHash(entry), nil)
		out.Others++
		return nil
	}
	if len(f) != 3 {
		return fmt.Errorf("%w: %.80q is no line of leaves", ErrMalformed, line)
	}
	n, err1 := checkpoint.ParseSize(f[0])
	seq, err2 := checkpoint.ParseSize(f[1])
	hash, err3 := hashOf(f[2])
	if err1 != nil || err2 != nil || err3 != nil || n >= uint64(len(g.streams)) {
		return fmt.Errorf("%w: %.80q is no line of leaves", ErrMalformed, line)
	}
	s := g.streams[n]
	known, shown := v.disclosed[index]
	if shown && known != (leaf{hash, s.id, seq}) {
		return fmt.Errorf("%w: it is not the record that is proven to stand there", ErrMalformed)
	}
	g.tree.Append(hash, nil)
	if seq >= s.end {
		s.beyond++
		return nil
	}
	out.Records++
	if shown {
		out.Shown++
	}
	return g.append(s, seq, hash)
}

// append adds a leaf to its producer's tree.
func (g *ranger) append(s *branch, seq uint64, hash record.Hash) error {
	if _, twice := s.pending[seq]; twice || seq < s.tree.Size() {
		return fmt.Errorf("%w: record %d of %s stands there a second time, or before the first of its stream", ErrMalformed, seq, s.id.Incarnation)
	}
	s.pending[seq] = hash
	if g.waiting++; g.waiting > maxPending {
		return fmt.Errorf("%w: too many records stand before one of their stream that comes first, such as record %d of %s", ErrMalformed, s.tree.Size(), s.id.Incarnation)
	}
	for {
		h, ok := s.pending[s.tree.Size()]
		if !ok {
			return nil
		}
		delete(s.pending, s.tree.Size())
		g.waiting--
		s.tree.Append(h, nil)
	}
}

// finishLog holds the leaves against the head.
func (v *verifier) finishLog(g *ranger) bool {
	root := g.tree.Root()
	if err := merkle.VerifyConsistency(rfc6962.DefaultHasher, g.End, v.head.Size, g.consistency, root[:], v.head.Root[:]); err != nil {
		v.find(audit.RootMismatch, "the leaves from index %d to %d are not those that stand in the log under its checkpoint: one has been altered, removed, added or moved (%v)", g.First, g.End-1, checkpoint.Unproven(err))
		return false
	}
	return true
}

// finishStreams holds the leaves of each stream against its seal.
func (v *verifier) finishStreams(g *ranger, out *RangeReport) bool {
	good := true
	for _, s := range g.streams {
		out.Unsettled += s.beyond
		if s.end == s.first {
			continue
		}
		if s.tree.Size() != s.end {
			v.find(audit.RecordMissing, "record %d of incarnation %s is not among the leaves, although those before and behind it are said to be", s.tree.Size(), s.id.Incarnation)
			good = false
			continue
		}
		seal, root := v.seals[s.id], s.tree.Root()
		if err := merkle.VerifyConsistency(rfc6962.DefaultHasher, s.end, seal.Size, s.consistency, root[:], seal.Root[:]); err != nil {
			v.find(audit.SealMismatch, "records %d to %d of incarnation %s are not those that their producer sealed (%v)", s.first, s.end-1, s.id.Incarnation, checkpoint.Unproven(err))
			good = false
			continue
		}
		name := s.id.Producer.String()
		if v.ring != nil {
			if k, ok := v.ring.Key(s.id.Producer); ok {
				name = k.Name
			}
		}
		out.Streams = append(out.Streams, StreamRange{Producer: name, Key: s.id.Producer.String(), Incarnation: s.id.Incarnation.String(), First: s.first, End: s.end})
	}
	return good
}
