package bundle

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
)

// finder reads the log once, and finds what is to go into the bundle.
type finder struct {
	Options
	ring       *record.Keyring
	statements []uint64 // the operator's, with the genesis
	logKey     *uint64  // the newest of them that names a key of the log
	streams    map[record.Stream]*stream
	records    []shown
	gaps       []shown
	span       Range // of records that claim a time that was asked for; empty if End is 0
	unsealed   uint64
}

// shown is a record that the bundle shows in full.
type shown struct {
	index  uint64
	stream record.Stream
	seq    uint64
	beacon *place // before it in its tree; nil if none is near
}

// place is a record of a stream.
type place struct{ seq, index uint64 }

// stream is one producer tree.
type stream struct {
	id      record.Stream
	beacons []place // the newest few
	seal    *record.Seal
	sealAt  uint64
}

// recentBeacons is how many beacons of a stream are remembered: records stand a
// little out of order in a log.
const recentBeacons = 16

func (f *finder) stream(id record.Stream) *stream {
	s := f.streams[id]
	if s == nil {
		s = &stream{id: id}
		f.streams[id] = s
	}
	return s
}

// find reads everything.
func (f *finder) find(ctx context.Context) error {
	f.streams = make(map[record.Stream]*stream)
	for rest := f.Kept.Statements; len(rest) > 0; {
		n := min(len(rest), 256)
		entries, err := f.Tree.Entries(ctx, rest[:n]...)
		if err != nil {
			return err
		}
		for i, b := range entries {
			if e, err := record.Parse(b); err == nil && e.Record == nil && e.Seal == nil {
				if err := f.statement(e, rest[i]); err != nil {
					return err
				}
			}
		}
		rest = rest[n:]
	}
	for p, err := range f.Tree.Scan(ctx, f.Kept.Minimum) {
		if err != nil {
			return err
		}
		if err := f.take(p); err != nil {
			return err
		}
		if f.Progress != nil && p.Index%1024 == 0 {
			f.Progress(p.Index, f.Tree.Size())
		}
	}
	f.records, f.unsealed = f.provable(f.records)
	f.gaps, _ = f.provable(f.gaps)
	return nil
}

// provable leaves out the records that no seal covers.
func (f *finder) provable(list []shown) (sealed []shown, unsealed uint64) {
	for _, x := range list {
		if s := f.streams[x.stream]; s.seal == nil || s.seal.Size <= x.seq {
			unsealed++
			continue
		}
		sealed = append(sealed, x)
	}
	return sealed, unsealed
}

func (f *finder) take(p client.Proven) error {
	wanted, err := f.Select(p)
	if err != nil {
		return err
	}
	e, err := record.Parse(p.Entry)
	if err != nil {
		return nil // of no known form: it stands in the tree as it is
	}
	switch {
	case e.Record != nil:
		return f.record(p, e, wanted)
	case e.Seal != nil:
		f.seal(*e.Seal, p.Index)
	case p.Index >= f.Kept.Minimum || f.Kept.Minimum == 0:
		return f.statement(e, p.Index)
	}
	return nil
}

func (f *finder) record(p client.Proven, e record.Entry, wanted bool) error {
	r := e.Record
	s, seq := f.stream(r.Stream), r.GetSequence()
	if f.timed(r.GetTime()) {
		if f.span.End == 0 {
			f.span.First = p.Index
		}
		f.span.End = p.Index + 1
	}
	x := shown{index: p.Index, stream: r.Stream, seq: seq}
	for _, b := range s.beacons {
		if b.seq < seq && (x.beacon == nil || b.seq > x.beacon.seq) {
			x.beacon = &b
		}
	}
	if b := r.GetBeacon(); b != nil && f.bounds(b.GetCheckpoint(), p.Index) {
		if s.beacons = append(s.beacons, place{seq, p.Index}); len(s.beacons) > recentBeacons {
			s.beacons = s.beacons[1:]
		}
	}
	g := r.GetGap()
	switch {
	case wanted:
		f.records = append(f.records, x)
	case g != nil && (f.Until.IsZero() || g.GetSince() < f.Until.UnixNano()) && (f.Since.IsZero() || g.GetUntil() >= f.Since.UnixNano()):
		f.gaps = append(f.gaps, x)
	}
	if len(f.records)+len(f.gaps) > maxShown {
		return fmt.Errorf("%w: more than %d records match; say more exactly which", ErrTooMany, maxShown)
	}
	return nil
}

// timed reports whether a time is within what was asked for.
func (f *finder) timed(ns int64) bool {
	return (f.Since.IsZero() || ns >= f.Since.UnixNano()) && (f.Until.IsZero() || ns < f.Until.UnixNano())
}

// bounds reports whether the checkpoint in a beacon is one of this log, from before
// the beacon, and trusted, so that evidence can have it.
func (f *finder) bounds(signed []byte, index uint64) bool {
	text, err := checkpoint.Text(signed)
	if err != nil {
		return false
	}
	b, _, err := checkpoint.Parse(text)
	if err != nil || b.Origin != f.Head.Origin || b.Size > index {
		return false
	}
	_, err = f.Policy.VerifyLogOnly(signed)
	return err == nil
}

func (f *finder) seal(s record.Seal, index uint64) {
	if f.ring == nil || s.Size == 0 {
		return
	}
	key, err := f.ring.Admit(s.Stream, s.Size-1)
	if err != nil || s.Verify(key) != nil {
		return // an audit tells
	}
	if x := f.stream(s.Stream); x.seal == nil || s.Size > x.seal.Size {
		s.Note = bytes.Clone(s.Note)
		x.seal, x.sealAt = &s, index
	}
}

func (f *finder) statement(e record.Entry, index uint64) error {
	var err error
	switch {
	case e.Genesis != nil && f.ring == nil && index == 0:
		f.ring, err = record.NewKeyring(e.Genesis, f.Policy.Operator)
	case f.ring == nil:
		err = errors.New("the log does not begin with a genesis: it is not a Sealtap log")
	case e.KeyChange != nil:
		if err = f.ring.Apply(e.KeyChange, index); len(e.KeyChange.Log) > 0 {
			f.logKey = &index
		}
	case e.Statement != nil:
		err = f.ring.ApplyStatement(e.Statement, index)
	default:
		return nil // of a kind that this program does not know
	}
	if err != nil {
		return fmt.Errorf("%w: entry %d: %w", client.ErrVerification, index, err)
	}
	f.statements = append(f.statements, index)
	return nil
}

// byIndex orders what is shown.
func byIndex(list []shown) []shown {
	return slices.SortedFunc(slices.Values(list), func(a, b shown) int { return cmp.Compare(a.index, b.index) })
}
