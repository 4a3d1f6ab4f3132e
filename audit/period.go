package audit

import (
	"fmt"
	"math/bits"
	"time"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
)

// Period is a span of time that a report is about. It begins with Since, and ends
// before Until.
type Period struct{ Since, Until time.Time }

// PeriodReport says what the data show about a period. The whole log was audited; a
// record belongs to the period by the time that it claims, which is its producer's.
type PeriodReport struct {
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	// Complete is set where the data show that no record of the period is missing: of
	// each producer there is a seal over a record from the end of the period or after
	// it, or the operator ended its key and what it left admissible is there.
	Complete bool     `json:"complete"`
	Lacking  []string `json:"lacking,omitempty"` // why it is not

	Records   uint64 `json:"records"` // that claim a time in the period
	Requests  uint64 `json:"requests"`
	Responses uint64 `json:"responses"`
	// Within counts those of Records that the witnesses place in the period on both
	// sides: after a checkpoint that was cosigned in it, before one that was. Where
	// beacons are rare the count may be too small, never too large.
	Within uint64 `json:"within"`
	Opens  Edge   `json:"opens"`
	Closes Edge   `json:"closes"`
}

// Edge is what witnesses say of the beginning or the end of a period. All entries
// under Before were made before that moment.
type Edge struct {
	Before *CosignedHead `json:"before,omitempty"` // the largest cosigned by then
	After  *CosignedHead `json:"after,omitempty"`  // the first cosigned later
}

// CosignedHead is a checkpoint that satisfies the policy.
type CosignedHead struct {
	Size       uint64    `json:"size"`
	CosignedAt time.Time `json:"cosigned_at"` // when the quorum had
}

// take lets a head be what stands next to the moment t.
func (e *Edge) take(size uint64, cosigned, t time.Time) {
	h := &CosignedHead{size, cosigned}
	if cosigned.After(t) {
		if e.After == nil || cosigned.Before(e.After.CosignedAt) {
			e.After = h
		}
		return
	}
	if e.Before == nil || size > e.Before.Size {
		e.Before = h
	}
}

// periodScan counts along the scan.
type periodScan struct {
	Period
	since, until int64 // Unix nanoseconds
	report       PeriodReport

	// Records that may count as within and are not bounded from above yet.
	first   uint64   // bundle of waiting[0]
	waiting []marked // by bundles
}

// marked are entries of a bundle.
type marked [tileWidth / 64]uint64

// mostWaiting bounds what waits for a checkpoint: 16,777,216 entries, 2 MiB.
const mostWaiting = 1 << 16

func newPeriodScan(p *Period) *periodScan {
	if p == nil {
		return nil
	}
	since, until := p.Since.UTC(), p.Until.UTC()
	return &periodScan{Period: Period{since, until}, since: since.UnixNano(), until: until.UnixNano(), report: PeriodReport{Since: since, Until: until}}
}

// touches reports whether a span, open where it has no end, lies in the period in part.
func (p *periodScan) touches(from, to time.Time) bool {
	return from.Before(p.Until) && (to.IsZero() || !to.Before(p.Since))
}

// record counts a record.
func (p *periodScan) record(s *stream, it *item) {
	if it.time < p.since || it.time >= p.until {
		return
	}
	p.report.Records++
	switch it.about {
	case isRequest:
		p.report.Requests++
	case isResponse, isUnknown:
		p.report.Responses++
	}
	if s.beacon < p.since {
		return // nothing but its own clock says that it is not from before
	}
	n := it.index / tileWidth
	if b := p.report.Closes.Before; b != nil && it.index < b.Size {
		p.report.Within++
		return
	}
	if len(p.waiting) == 0 {
		p.first = n
	}
	if n < p.first || n-p.first >= mostWaiting {
		return // the count says at least
	}
	for uint64(len(p.waiting)) <= n-p.first {
		p.waiting = append(p.waiting, marked{})
	}
	p.waiting[n-p.first][it.index%tileWidth/64] |= 1 << (it.index % 64)
}

// head takes a checkpoint that the quorum had cosigned at a time.
func (p *periodScan) head(size uint64, unix int64) {
	t := time.Unix(unix, 0).UTC()
	p.report.Opens.take(size, t, p.Since)
	p.report.Closes.take(size, t, p.Until)
	b := p.report.Closes.Before
	for b != nil && len(p.waiting) > 0 && p.first*tileWidth < b.Size {
		w := &p.waiting[0]
		below := min(b.Size-p.first*tileWidth, tileWidth)
		for i := range w {
			take := ^uint64(0)
			if n := max(below, uint64(i)*64) - uint64(i)*64; n < 64 {
				take = 1<<n - 1
			}
			p.report.Within += uint64(bits.OnesCount64(w[i] & take))
			w[i] &^= take
		}
		if below < tileWidth {
			return
		}
		p.first, p.waiting = p.first+1, p.waiting[1:]
	}
}

// finishPeriod says whether the data show that the period is complete.
func (p *producers) finishPeriod(list []*stream) {
	a, scan := p.a, p.a.coverage.period
	if a.vouched() {
		scan.head(a.head.Size, a.upper)
	}
	r := scan.report
	lack := func(format string, args ...any) { r.Lacking = append(r.Lacking, fmt.Sprintf(format, args...)) }
	if m := a.kept.Minimum; m > 0 && (r.Opens.Before == nil || r.Opens.Before.Size < m) {
		lack("Entries below index %d are not kept any more, and nothing shows that all of them were made before the period began.", m)
	}
	if p.ring != nil && a.report.Predecessor != nil && p.ring.Genesis.Created.After(r.Since) {
		lack("The period begins before this log, which goes on from %s: report on that one too.", a.report.Predecessor.Origin)
	}
	if a.vouched() && nanos(a.upper) < scan.until {
		lack("The newest head of the log was cosigned at %s, before the period ends.", seconds(a.upper))
	}
	if p.ring == nil {
		lack("Nothing says who may write to the log.")
	} else {
		for _, k := range p.ring.Producers() {
			if why := p.uncovered(keyStreams(list, k.ID()), k.ID(), scan); why != "" {
				lack("%s: %s.", k.Name, why)
			}
		}
	}
	r.Complete = len(r.Lacking) == 0
	a.report.Period = &r
}

func keyStreams(list []*stream, id keys.ID) (own []*stream) {
	for _, s := range list {
		if s.id.Producer == id {
			own = append(own, s)
		}
	}
	return own
}

// uncovered says why the data do not show that a key's records of the period are
// all there; "" where they do.
func (p *producers) uncovered(lives []*stream, id keys.ID, scan *periodScan) string {
	for i, s := range lives {
		if i > 0 && s.start != nil && s.start.GetPrevious() == nil && s.firstTime >= scan.since && lives[i-1].firstTime < scan.until {
			return fmt.Sprintf("its incarnation %s does not name a seal of the one before, which may have lost records at its end", s.id.Incarnation)
		}
	}
	var newest *stream
	for _, s := range lives {
		if s.sealedTime >= scan.until {
			return "" // its tree has no hole before that, or there is a finding
		}
		if newest == nil || s.latest > newest.latest {
			newest = s
		}
	}
	if r, ok := p.ring.Revoked(id); ok {
		for _, l := range r.Last {
			s := p.streams[record.Stream{Producer: id, Incarnation: l.Incarnation}]
			if s == nil || s.sealed <= l.Sequence {
				return fmt.Sprintf("its key was revoked, but of what stays admissible, up to sequence %d of incarnation %s, not all is there under a seal", l.Sequence, l.Incarnation)
			}
		}
		return ""
	}
	switch {
	case newest == nil || newest.records == 0:
		return "it is enrolled, and nothing of it is there: the data do not show that it had nothing to write (a key that is not used can be revoked)"
	case newest.stopped && newest.sealed == newest.next:
		return fmt.Sprintf("its records end with a stop record at %s, before the period does: the data do not show that it did not run again (a key that is no longer used can be revoked)", clock(newest.latest))
	case newest.sealedTime == 0:
		return "none of its records lies under a seal that holds good"
	}
	return fmt.Sprintf("no seal of it covers the end of the period: the last is over records until %s", clock(newest.sealedTime))
}
