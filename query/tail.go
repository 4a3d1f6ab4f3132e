package query

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/sealtap/sealtap/record"
)

// field is what a set of entries has in common a value of. The numbers stand in
// the index file.
type field byte

const (
	fieldRecord    field = iota // one term, "": all records
	fieldStage                  // its name
	fieldWho                    // fields from here on: from the request of the exchange
	fieldService                //
	fieldMethod                 //
	fieldPath                   //
	fieldTrace                  // 16 bytes
	fieldStatus                 // three digits, from the responses of the exchange
	fieldProducer               // 32 bytes
	fieldExchange               // 16 bytes
	fieldOperation              // its name; from the request of the exchange
)

// fields is how many of them there are.
const fields = uint64(fieldOperation) + 1

// maxTerm is the longest value that is kept as it is. Of longer ones the
// beginning is kept, and a digest that stands for the whole.
const maxTerm = 512

// term is a value of a field.
type term struct {
	field field
	value string
}

// view is what a search asks of one segment.
type view interface {
	// or adds the entries with a term to the set.
	or(s set, t term) error
	// orPrefix adds the entries with a term that starts with t.value.
	orPrefix(s set, t term) error
	// times visits the times of the records in order; false ends the visit with
	// an error.
	times(visit func(t int64) bool) error
}

// zone bounds what a full segment holds, so that searches can pass it by.
type zone struct {
	minTime, maxTime         int64
	minExchange, maxExchange [16]byte
}

func newZone() zone {
	z := zone{minTime: math.MaxInt64, maxTime: math.MinInt64}
	for i := range z.minExchange {
		z.minExchange[i] = 0xff
	}
	return z
}

// tail is the newest segment, in memory. Run changes it under the lock of the
// index.
type tail struct {
	first  uint64 // index of its first entry
	size   uint64 // of a full segment
	leaves []record.Hash
	terms  map[term]*[]uint16 // ascending
	ids    idTail
	clock  []int64 // of its records, in order
	zone   zone
}

func newTail(first, size uint64) *tail {
	return &tail{first: first, size: size, terms: make(map[term]*[]uint16), ids: idTail{newest: make(map[uid]uint32)}, zone: newZone()}
}

func (t *tail) full() bool { return uint64(len(t.leaves)) == t.size }

func (t *tail) add(p posting) {
	members := t.terms[p.term]
	if members == nil {
		members = new([]uint16)
		t.terms[p.term] = members
	}
	*members = insert(*members, p.lo)
}

func (t *tail) or(s set, x term) error {
	if u, ok := x.asID(); ok {
		t.ids.or(s, u)
		return nil
	}
	if members := t.terms[x]; members != nil {
		for _, lo := range *members {
			s.add(lo)
		}
	}
	return nil
}

func (t *tail) orPrefix(s set, x term) error {
	for y, members := range t.terms {
		if y.field == x.field && strings.HasPrefix(y.value, x.value) {
			for _, lo := range *members {
				s.add(lo)
			}
		}
	}
	return nil
}

func (t *tail) times(visit func(int64) bool) error {
	for _, x := range t.clock {
		if !visit(x) {
			return nil
		}
	}
	return nil
}

// find returns the index of the newest entry whose leaf hash is h.
func (t *tail) find(h record.Hash) (index uint64, ok bool) {
	for i := len(t.leaves) - 1; i >= 0; i-- {
		if t.leaves[i] == h {
			return t.first + uint64(i), true
		}
	}
	return 0, false
}

// stored is a full segment.
type stored struct {
	st  *store
	seg uint64
	// What was read already: the members that have a term.
	term    term
	members []byte
}

func (f stored) or(s set, t term) error {
	known := f.members != nil && t == f.term
	if x, ok := t.asID(); ok && known {
		return s.addAll(f.members)
	} else if ok {
		return f.orID(s, x)
	}
	if known {
		return s.or(f.members)
	}
	b, err := blob(f.st.post, f.seg, t.field, []byte(t.value))
	if err != nil || b == nil {
		return err
	}
	return s.or(b)
}

func (f stored) orID(s set, x uid) error {
	b, err := blob(f.st.ids, f.seg, x.field, x.bucket())
	if err == nil {
		b, err = membersOf(b, x)
	}
	if err != nil {
		return err
	}
	return s.addAll(b)
}

func (f stored) orPrefix(s set, t term) error {
	rows, err := f.st.postRange.Query(f.seg, t.field, []byte(t.value), successor(t.value))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var b []byte
		if err := rows.Scan(&b); err != nil {
			return err
		}
		if err := s.or(b); err != nil {
			return err
		}
	}
	return rows.Err()
}

// successor returns the least value greater than all that start with prefix.
func successor(prefix string) []byte {
	b := []byte(prefix)
	for len(b) > 0 && b[len(b)-1] == 0xff {
		b = b[:len(b)-1]
	}
	if len(b) == 0 {
		return bytes.Repeat([]byte{0xff}, maxTerm+1) // greater than any
	}
	b[len(b)-1]++
	return b
}

func (f stored) times(visit func(int64) bool) error {
	b, err := blob(f.st.times, f.seg)
	if err != nil {
		return err
	}
	return decodeTimes(b, visit)
}

// leafPrefix is how much of a leaf hash is kept, in addition to the byte that
// chooses the bucket. A false hit is found out when the entry is read.
const leafPrefix = 3

const leafWidth = leafPrefix + 2

// findLeaf returns the indices of entries in full segments whose leaf hash may
// be h, newest first.
func (st *store) findLeaf(h record.Hash) ([]uint64, error) {
	buckets, err := parts(st.leaves, h[0])
	if err != nil {
		return nil, err
	}
	var list []uint64
	for _, p := range buckets {
		if len(p.blob)%leafWidth != 0 {
			return nil, fmt.Errorf("%w: a leaf bucket of %d bytes", errDamaged, len(p.blob))
		}
		for i := len(p.blob) - leafWidth; i >= 0; i -= leafWidth {
			if b := p.blob[i : i+leafWidth]; string(b[:leafPrefix]) == string(h[1:1+leafPrefix]) {
				list = append(list, p.seg*st.segment+uint64(binary.BigEndian.Uint16(b[leafPrefix:])))
			}
		}
	}
	return list, nil
}

// writeSegment writes a full segment, with the sizes that the streams' trees
// have at its end.
func (st *store) writeSegment(ctx context.Context, t *tail, sizes map[int64]uint64) error {
	tx, err := st.db.Writer.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	seg := t.first / t.size
	last := t.leaves[len(t.leaves)-1]
	z := t.zone
	_, err = tx.ExecContext(ctx, "INSERT INTO zone VALUES (?, ?, ?, ?, ?, ?)", seg,
		z.minTime, z.maxTime, z.minExchange[:], z.maxExchange[:], last[:])
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO clock VALUES (?, ?)", seg, encodeTimes(t.clock)); err != nil {
		return err
	}
	post, err := tx.PrepareContext(ctx, "INSERT INTO post VALUES (?, ?, ?, ?)")
	if err != nil {
		return err
	}
	defer post.Close()
	// In the order of the key, so that pages fill up one after the other.
	for _, x := range slices.SortedFunc(maps.Keys(t.terms), compareTerms) {
		if _, err := post.Exec(seg, x.field, []byte(x.value), encodeMembers(*t.terms[x], t.size)); err != nil {
			return err
		}
	}
	if err := writeIDs(ctx, tx, seg, &t.ids); err != nil {
		return err
	}
	for bucket, hashes := range leafBuckets(t.leaves) {
		if len(hashes) > 0 {
			if _, err := tx.ExecContext(ctx, "INSERT INTO leaf VALUES (?, ?, ?)", seg, bucket, hashes); err != nil {
				return err
			}
		}
	}
	for id, size := range sizes {
		if _, err := tx.ExecContext(ctx, "UPDATE stream SET size = ? WHERE id = ?", size, id); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func leafBuckets(leaves []record.Hash) [256][]byte {
	var buckets [256][]byte
	for i, h := range leaves {
		b := append(buckets[h[0]], h[1:1+leafPrefix]...)
		buckets[h[0]] = binary.BigEndian.AppendUint16(b, uint16(i))
	}
	return buckets
}

func compareTerms(a, b term) int {
	return cmp.Or(cmp.Compare(a.field, b.field), strings.Compare(a.value, b.value))
}
