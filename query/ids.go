package query

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
)

// uid is a term that mostly names few entries: those of an exchange, or of a trace. There
// are about as many ids as entries, so a full segment keeps them in buckets, not
// each in a row of its own.
type uid struct {
	field field
	value [16]byte
}

// asID returns the term as an id, if it is one.
func (t term) asID() (uid, bool) {
	if t.field != fieldExchange && t.field != fieldTrace || len(t.value) != 16 {
		return uid{}, false
	}
	return uid{t.field, [16]byte([]byte(t.value))}, true
}

// bucket is one of 512, by the last nine bits: the first ones of an exchange are its
// time. What a bucket of a usual segment holds fits into a page with others.
func (x uid) bucket() uint16 { return uint16(x.value[15])<<1 | uint16(x.value[14]&1) }

const idBucketCount = 512

// idPosting gives an entry of a segment an id.
type idPosting struct {
	uid
	lo uint16
}

// idTail holds the ids of the newest segment.
type idTail struct {
	list   []idPosting
	older  []uint32       // of each posting, one more than the place of the one before it with the same id
	newest map[uid]uint32 // one more than the place of the last posting
}

// add does not look whether the posting is there already: a client chooses the id of
// its trace, which all entries can have. What comes twice is left out when it is
// written.
func (t *idTail) add(p idPosting) {
	t.list, t.older = append(t.list, p), append(t.older, t.newest[p.uid])
	t.newest[p.uid] = uint32(len(t.list))
}

func (t *idTail) or(s set, x uid) {
	for at := t.newest[x]; at > 0; at = t.older[at-1] {
		s.add(t.list[at-1].lo)
	}
}

// idRest is how much of an id stands in its bucket, which knows the last byte.
const idRest = 15

// appendIDs writes postings of one bucket in order: of each id the first 15 bytes,
// how many entries follow (1 to 255), and these. An id with more is written again.
func appendIDs(b []byte, postings []idPosting) []byte {
	for len(postings) > 0 {
		n := 1
		for n < len(postings) && n < 255 && postings[n].uid == postings[0].uid {
			n++
		}
		b = append(b, postings[0].value[:idRest]...)
		b = append(b, byte(n))
		for _, p := range postings[:n] {
			b = binary.LittleEndian.AppendUint16(b, p.lo)
		}
		postings = postings[n:]
	}
	return b
}

// eachID visits what appendIDs wrote, and reports whether it is whole.
func eachID(b []byte, visit func(rest, members []byte)) bool {
	for len(b) > idRest {
		end := idRest + 1 + 2*int(b[idRest])
		if b[idRest] == 0 || len(b) < end {
			return false
		}
		visit(b[:idRest], b[idRest+1:end])
		b = b[end:]
	}
	return len(b) == 0
}

// membersOf returns the entries that a bucket gives an id, as 16-bit numbers.
func membersOf(bucket []byte, x uid) (members []byte, err error) {
	if !eachID(bucket, func(rest, list []byte) {
		if bytes.Equal(rest, x.value[:idRest]) {
			members = append(members, list...)
		}
	}) {
		return nil, fmt.Errorf("%w: a bucket of ids of %d bytes", errDamaged, len(bucket))
	}
	return members, nil
}

// idBuckets returns postings cut into buckets, each in the order in which it is
// written; those that are empty are left out.
func idBuckets(postings []idPosting) iter.Seq[[]idPosting] {
	key := func(x uid) int {
		k := int(x.bucket())
		if x.field == fieldTrace {
			k += idBucketCount
		}
		return k
	}
	var ends [2*idBucketCount + 1]int
	for i := range postings {
		ends[key(postings[i].uid)+1]++
	}
	for i := range ends[1:] {
		ends[i+1] += ends[i]
	}
	sorted := make([]idPosting, len(postings))
	for i := range postings { // ends[k] moves from the begin of bucket k to its end
		k := key(postings[i].uid)
		sorted[ends[k]] = postings[i]
		ends[k]++
	}
	return func(yield func([]idPosting) bool) {
		begin := 0
		for _, end := range ends[:2*idBucketCount] {
			bucket := sorted[begin:end]
			slices.SortFunc(bucket, func(a, b idPosting) int {
				return cmp.Or(bytes.Compare(a.value[:], b.value[:]), cmp.Compare(a.lo, b.lo))
			})
			if bucket = slices.Compact(bucket); len(bucket) > 0 && !yield(bucket) {
				return
			}
			begin = end
		}
	}
}

// writeIDs writes the ids of a full segment.
func writeIDs(ctx context.Context, tx *sql.Tx, seg uint64, t *idTail) error {
	insert, err := tx.PrepareContext(ctx, "INSERT INTO id VALUES (?, ?, ?, ?)")
	if err != nil {
		return err
	}
	defer insert.Close()
	for list := range idBuckets(t.list) {
		if _, err := insert.ExecContext(ctx, seg, list[0].field, list[0].bucket(), appendIDs(nil, list)); err != nil {
			return err
		}
	}
	return nil
}

// patchID gives entries of a full segment an id.
func patchID(ctx context.Context, tx *sql.Tx, seg uint64, x uid, members []uint16) error {
	var bucket []byte
	err := tx.QueryRowContext(ctx, "SELECT members FROM id WHERE seg = ? AND field = ? AND bucket = ?", seg, x.field, x.bucket()).Scan(&bucket)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	var postings []idPosting
	if !eachID(bucket, func(rest, list []byte) {
		y := uid{field: x.field}
		copy(y.value[:], rest)
		y.value[idRest] = x.value[idRest]
		for ; len(list) > 0; list = list[2:] {
			postings = append(postings, idPosting{y, binary.LittleEndian.Uint16(list)})
		}
	}) {
		return fmt.Errorf("%w: a bucket of ids of %d bytes", errDamaged, len(bucket))
	}
	for _, lo := range members {
		postings = append(postings, idPosting{x, lo})
	}
	for list := range idBuckets(postings) { // all of one bucket
		bucket = appendIDs(nil, list)
	}
	_, err = tx.ExecContext(ctx, "INSERT OR REPLACE INTO id VALUES (?, ?, ?, ?)", seg, x.field, x.bucket(), bucket)
	return err
}

// withID returns the newest segments below one that have the id, at most n, newest
// first, and the entries in them.
func (st *store) withID(q *search, x uid, below uint64, n int) (list []part, err error) {
	rows, err := st.idsIn.Query(x.field, x.bucket(), below, q.since, q.last())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for len(list) < n && rows.Next() {
		var p part
		if err := rows.Scan(&p.seg, &p.blob); err != nil {
			return nil, err
		}
		if p.blob, err = membersOf(p.blob, x); err != nil {
			return nil, err
		}
		if p.blob != nil {
			list = append(list, p)
		}
	}
	return list, rows.Err()
}
