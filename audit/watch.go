package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

// Watch audits a log again and again, each time only what is new. Between the
// times it keeps in memory what an audit knows: a few hundred bytes for each life
// of a producer, and some megabytes. It is used by one goroutine.
type Watch struct {
	a    *auditor
	last *policy.Checkpoint // that was audited to its end; nil before the first
}

// NewWatch prepares to audit the log behind src. A state file is read once, and
// written after each audit that passes. With Incremental what an earlier watch knew is
// read too, so that only what is new since is read from the log; it is written after
// an audit that passes, but not more often than every minute.
func NewWatch(src Source, o Options) (*Watch, error) {
	a, err := newAuditor(src, o)
	if err != nil {
		return nil, err
	}
	a.goesOn = true
	if o.Incremental {
		if err := a.loadMemories(); err != nil {
			return nil, err
		}
	}
	return &Watch{a: a}, nil
}

// Next audits what is new and reports on all of the log up to its newest head. The
// first time that is everything that is not known from before. What is wrong with an entry stays in all later
// reports; what only the newest head shows, such as a producer that is silent, is
// judged anew each time. Its errors are those of [Run].
func (w *Watch) Next(ctx context.Context) (*Report, error) {
	a, start := w.a, time.Now()
	old := a.report
	a.report = a.newReport()
	a.report.Checked, a.report.Operator, a.report.Statements, a.report.Predecessor = old.Checked, old.Operator, old.Statements, old.Predecessor
	a.unfinished, a.keptAt = nil, start
	a.settled = a.mark()
	var err error
	if a.producers == nil {
		err = a.run(ctx)
	} else {
		w.more(ctx)
	}
	if err == nil {
		err = a.end(start)
	}
	report := a.report
	if report.Verdict != Incomplete && a.head != nil && a.taken >= a.head.Size {
		w.last = a.head
	}
	a.rewind(a.settled)
	return report, err
}

// more goes on to the newest head.
func (w *Watch) more(ctx context.Context) {
	a, last := w.a, w.last
	if last == nil {
		last = a.head // the audit of it did not come to its end
	}
	if !a.openHead(ctx) {
		a.head = last
		return
	}
	a.tree = client.NewTree(a.src, a.head.Size, a.head.Root)
	if why := w.rewritten(ctx, last); why != "" {
		a.add(Finding{Code: Fork, Severity: Finds, Heads: []string{string(last.Note), string(a.head.Note)}, Detail: why})
		a.settled = a.mark()
		a.head = last
		return
	}
	if a.head.Size < last.Size {
		a.add(Finding{Code: Rollback, Severity: Finds, Heads: []string{string(last.Note), string(a.head.Note)}, Detail: fmt.Sprintf(
			"the log has shrunk: it shows %d entries, and it had shown %d; the others have been taken away, or an old copy is being shown", a.head.Size, last.Size)})
		a.settled = a.mark()
		a.head = last
		return
	}
	a.finish(ctx)
}

// rewritten says how the log's history differs from the one that was audited.
func (w *Watch) rewritten(ctx context.Context, last *policy.Checkpoint) string {
	a := w.a
	switch {
	case a.head.Origin != last.Origin:
		return fmt.Sprintf("the log was %q, and says now that it is %q", last.Origin, a.head.Origin)
	case a.head.Size == last.Size && a.head.Root != last.Root:
		return fmt.Sprintf("the log has signed two roots of %d entries", last.Size)
	case a.head.Size > last.Size:
		err := a.tree.Consistent(ctx, checkpoint.Body{Origin: last.Origin, Size: last.Size, Root: last.Root})
		if errors.Is(err, client.ErrVerification) {
			return fmt.Sprintf("the log has another history than it had: its first %d entries have another root hash: %v", last.Size, err)
		}
		if err != nil {
			a.unavailable(err)
		}
	}
	return ""
}

// mark is what the findings were at one moment.
type mark struct {
	list   int
	count  map[counted]int
	failed bool
}

func (f *findings) mark() mark {
	f.mu.Lock()
	defer f.mu.Unlock()
	return mark{len(f.list), maps.Clone(f.count), f.failed}
}

// rewind forgets what was found since.
func (f *findings) rewind(m mark) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list, f.count, f.failed = f.list[:m.list:m.list], m.count, m.failed
}

// Head is the checkpoint that was audited last, "" before the first.
func (w *Watch) Head() string {
	if w.last == nil {
		return ""
	}
	return string(w.last.Note)
}

// Tree returns proven reads under the checkpoint that was audited last; nil before
// the first.
func (w *Watch) Tree() *client.Tree {
	if w.last == nil {
		return nil
	}
	return client.NewTree(w.a.src, w.last.Size, w.last.Root)
}

// Holds reports whether another checkpoint of the log is one of the history that
// was audited, or whether it is ahead of that, so that nobody can tell yet.
func (w *Watch) Holds(ctx context.Context, cp *policy.Checkpoint) (same, ahead bool, err error) {
	switch {
	case w.last == nil || cp.Size > w.last.Size:
		return false, true, nil
	case cp.Size == 0 || !w.a.comparable(cp.Size):
		return true, false, nil // nothing in it contradicts, and nobody can tell more
	}
	root, ok := w.a.log.rootAt(cp.Size)
	if !ok {
		if root, err = w.Tree().RootAt(ctx, cp.Size); err != nil {
			return false, false, err
		}
	}
	return root == cp.Root, false, nil
}
