package audit

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/sealtap/sealtap/durable"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/witness/policy"
)

// Beside the state file an audit keeps all that it knows at one place of the log,
// so that the next one goes on from there: in one file as of the last audit that
// passed, in another one as far as an audit has come that has not ended. Those who
// can write to them can make an audit believe anything, as with the state file.
const (
	knownSuffix   = ".known"
	startedSuffix = ".started"

	memoryHeader = "sealtap/audit-memory/v1\n"

	// rules changes whenever an audit finds more than before, or keeps other things:
	// what an older version has passed over must be read anew.
	rules = "2"

	// maxMemory bounds what is read of a memory file. See bounds.go for what can be
	// in one.
	maxMemory = 256 << 20

	saveEvery = 15 * time.Second

	// watchSaves is how often a watch writes at most what it knows.
	watchSaves = time.Minute

	// interrupted is how long an audit that is to read everything can rest.
	interrupted = 24 * time.Hour
)

// memory is one such file.
type memory struct {
	path    string
	terms   record.Hash // under which it was audited
	source  string
	head    *policy.Checkpoint
	ended   bool  // that audit came to its end, and passed
	at      int64 // Unix nanoseconds
	minimum uint64
	taken   uint64 // entries read
	full    edge   // of the tree of their whole bundles
	whole   bool   // that audit did not go on from another one
	body    []byte // the rest
}

// header takes what is asked of a memory before it is believed.
func (m *memory) header(c *coder) (note []byte) {
	if m.head != nil {
		note = m.head.Note
	}
	c.raw(m.terms[:])
	c.text(&m.source)
	c.blob(&note)
	c.flag(&m.ended)
	c.signed(&m.at)
	c.number(&m.minimum)
	c.number(&m.taken)
	c.edge(&m.full)
	c.flag(&m.whole)
	return note
}

// termsOf names all that the knowledge of an audit depends on beside the entries:
// under other terms they are read anew.
func (a *auditor) termsOf() record.Hash {
	operator := ""
	if a.Operator != nil {
		operator = a.Operator.String()
	}
	return sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%d %d %d\n%t %t %t\n", rules, a.Policy.Marshal(), operator,
		a.Skew, a.HeartbeatSlack, a.MaxBracket, a.Openings != nil, a.Options.Predecessor != nil, a.TreeOnly))
}

// whole reports whether everything is to be read.
func (a *auditor) whole() bool { return a.Full || !a.Incremental }

// underWay reports whether an audit that is to read everything may go on from here: it
// is the same one, in spite of an interruption.
func (m *memory) underWay() bool {
	return m.whole && !m.ended && time.Since(time.Unix(0, m.at)) < interrupted
}

// loadMemories reads what earlier audits have left, the furthest first.
func (a *auditor) loadMemories() error {
	// What is told of producers over time is not in a memory.
	a.remembers = a.State != "" && !a.coverage.on
	if !a.remembers {
		return nil
	}
	for _, suffix := range []string{knownSuffix, startedSuffix} {
		m, err := loadMemory(a.State+suffix, a.Policy)
		if a.whole() && (err != nil || m == nil || !m.underWay()) {
			continue
		}
		if err != nil {
			return err
		}
		if m != nil {
			a.memories = append(a.memories, m)
		}
	}
	slices.SortStableFunc(a.memories, func(x, y *memory) int { return cmp.Compare(y.taken, x.taken) })
	return nil
}

func loadMemory(path string, p *policy.Policy) (*memory, error) {
	bad := func(why string, args ...any) error {
		return fmt.Errorf("reading what earlier audits know: %w: %s %w: audit with --full, which reads everything anew and replaces it", ErrConfig, path, fmt.Errorf(why, args...))
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading what earlier audits know: %w: %w", ErrConfig, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxMemory+1))
	if err != nil {
		return nil, fmt.Errorf("reading what earlier audits know: %w: %w", ErrConfig, err)
	}
	b, ours := bytes.CutPrefix(b, []byte(memoryHeader))
	switch {
	case !ours && bytes.HasPrefix(b, []byte("sealtap/audit-memory/")):
		return nil, bad("was written by another version of sealtap")
	case !ours:
		return nil, bad("is damaged, or something else")
	case len(b) > maxMemory-len(memoryHeader):
		return nil, bad("has more than %d bytes", maxMemory)
	case len(b) < sha256.Size || sha256.Sum256(b[sha256.Size:]) != record.Hash(b[:sha256.Size]):
		return nil, bad("is damaged: its digest is another one")
	}
	m := &memory{path: path}
	c := coder{reading: true, bytes: b[sha256.Size:]}
	note := m.header(&c)
	if c.err != nil {
		return nil, bad("is damaged: %w", c.err)
	}
	if m.head, err = p.VerifyLogOnly(note); err != nil {
		return nil, bad("is of no log of this policy: %w", err)
	}
	if m.taken > m.head.Size {
		return nil, bad("is damaged: %w", errShort)
	}
	m.body = c.bytes
	return m, nil
}

// resume goes on from what an earlier audit knew, where that is of this history
// and was audited on the same terms. It reports whether it does; if not,
// everything is to be read.
func (a *auditor) resume(ctx context.Context) (bool, error) {
	list := a.memories
	a.memories = nil
	for _, m := range list {
		if m.head.Origin != a.head.Origin {
			return false, fmt.Errorf("%w: %s is of log %q, this one is %q: give each log a state file of its own", ErrConfig, m.path, m.head.Origin, a.head.Origin)
		}
	}
	terms := a.termsOf()
	for _, m := range list {
		why := ""
		switch {
		case m.terms != terms:
			why = "the policy or the rules of the audit are others than those of the last one"
		case m.source != a.src.String():
			why = "the last audit with this state file read " + m.source + ", and what is there says nothing about this copy"
		case m.minimum != a.kept.Minimum:
			why = "the log has been pruned since the last audit"
		case !a.continues(ctx, m):
			why = "the log does not go on from where the last audit came to"
		}
		if why != "" {
			a.report.ReadAnew = cmp.Or(a.report.ReadAnew, why)
			continue
		}
		a.atHead = a.mark()
		if err := a.remember(m); err != nil {
			return false, fmt.Errorf("reading what earlier audits know: %w: %s is damaged: %w: audit with --full, which reads everything anew and replaces it", ErrConfig, m.path, err)
		}
		a.report.ReadAnew = ""
		return true, nil
	}
	a.atHead = a.mark()
	return false, nil
}

// continues compares the head of a memory with the one under audit, and finds a log
// that has another history now.
func (a *auditor) continues(ctx context.Context, m *memory) bool {
	before := a.before.head
	known := before != nil && before.Size == m.head.Size && before.Root == m.head.Root // it is compared anyway
	heads := []string{string(m.head.Note), string(a.head.Note)}
	if a.head.Size < m.head.Size {
		if !known {
			a.contradicted = true
			a.add(Finding{Code: Rollback, Severity: Finds, Heads: heads, Detail: fmt.Sprintf(
				"the log has shrunk: it shows %d entries, and showed %d to an earlier audit; the others have been taken away", a.head.Size, m.head.Size)})
		}
		return false
	}
	root, err := a.tree.RootAt(ctx, m.head.Size)
	if err != nil {
		return false // reading everything tells what is wrong
	}
	if root != m.head.Root {
		if !known {
			a.contradicted = true
			a.add(Finding{Code: Fork, Severity: Finds, Heads: heads, Detail: fmt.Sprintf(
				"the log has another history than it showed to an earlier audit: its first %d entries have another root hash", m.head.Size)})
		}
		return false
	}
	edge, err := a.tree.Edge(ctx, m.taken-m.taken%tileWidth)
	return err == nil && slices.Equal(edge, m.full.hashes) && (known || a.goesOnFrom(ctx, before))
}

// goesOnFrom reports whether the head under audit goes on from the one of the state
// file, as far as that can be compared. If not, reading everything finds it.
func (a *auditor) goesOnFrom(ctx context.Context, before *policy.Checkpoint) bool {
	if before == nil || !a.comparable(before.Size) {
		return true
	}
	if before.Size > a.head.Size {
		return false
	}
	root, err := a.tree.RootAt(ctx, before.Size)
	return err == nil && root == before.Root
}

// remember takes over what a memory holds.
func (a *auditor) remember(m *memory) error {
	c := coder{reading: true, bytes: m.body}
	if err := c.knowledge(a); err != nil {
		return err
	}
	a.log.full, a.taken = m.full, m.taken
	if a.log.next = m.full.size; m.full.size != m.taken/tileWidth {
		return errShort
	}
	if before := a.before.head; before != nil && a.comparable(before.Size) {
		a.report.Checked.Consistent = true // resume has compared it
	}
	if b, last := a.before.last, a.producers.last; b != nil && last != nil && b.number == last.number && b.leaf != last.leaf {
		return errors.New("the operator's newest statement in it is not that of the state file")
	}
	a.report.Known = &Known{Entries: m.taken, At: time.Unix(0, m.at).UTC().Format(time.RFC3339), Ended: m.ended}
	return nil
}

// encode returns a memory file of what is known now.
func (a *auditor) encode(ended bool) []byte {
	m := memory{terms: a.termsOf(), source: a.src.String(), head: a.head, ended: ended, whole: a.whole(), at: time.Now().UnixNano(), minimum: a.kept.Minimum, taken: a.taken, full: a.log.full}
	var c coder
	c.bytes = append(c.bytes, memoryHeader...)
	c.bytes = append(c.bytes, make([]byte, sha256.Size)...) // of the digest
	m.header(&c)
	_ = c.knowledge(a) // writing has no error
	digest := sha256.Sum256(c.bytes[len(memoryHeader)+sha256.Size:])
	copy(c.bytes[len(memoryHeader):], digest[:])
	return c.bytes
}

// keeps reports whether what is known now can be kept: nothing that was to be checked
// has been left out.
func (a *auditor) keeps() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.remembers && a.quorum && !a.contradicted && a.keepErr == nil && len(a.unfinished) == 0
}

// keepsEnded reports whether what is known at the end of the log is to be kept: by an audit
// that goes on, some megabytes every few seconds would be too much.
func (a *auditor) keepsEnded() bool {
	return !a.goesOn || a.Incremental && a.taken != a.endedTaken && time.Since(a.endedAt) >= watchSaves
}

// keepStarted writes down how far the audit is, so that another one can go on from
// there if this one does not come to its end. It is not what is known of a part
// of a bundle: that is proven by the end of the log only.
func (a *auditor) keepStarted() {
	if !a.keeps() || a.taken%tileWidth != 0 || a.taken == 0 {
		return
	}
	a.keptAt = time.Now()
	a.keepErr = writeMemory(a.State+startedSuffix, a.encode(false))
	if a.keepErr == nil {
		a.report.GoesOnFrom = a.taken
	}
}

func writeMemory(path string, b []byte) error {
	if err := durable.Replace(path, b, 0o600); err != nil {
		return fmt.Errorf("writing what the audit knows: %w", err)
	}
	return nil
}

// keepEnded writes down what is known after an audit that passed.
func (a *auditor) keepEnded() error {
	if a.keepErr != nil || a.ended == nil || !a.Incremental {
		return a.keepErr
	}
	err := writeMemory(a.State+knownSuffix, a.ended)
	a.ended, a.endedAt, a.endedTaken = nil, time.Now(), a.taken
	return err
}

// dropStarted removes what an interrupted audit left, once one has come to an end;
// not where its head is what contradicts the log.
func (a *auditor) dropStarted() error {
	a.report.GoesOnFrom = 0
	if !a.remembers || a.contradicted {
		return nil
	}
	if err := os.Remove(a.State + startedSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing what an interrupted audit left: %w", err)
	}
	return nil
}
