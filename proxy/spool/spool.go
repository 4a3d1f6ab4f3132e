// Package spool is the proxy's crash-safe, local write-ahead file, and the way
// from there to the log.
//
// A record is numbered, encoded, appended and made durable together with all
// others that wait at that moment (group commit, one fdatasync), and only then
// is its exchange allowed to go on. Seals follow: each covers every record that
// is durable by then. [Spool.Run] seals, beats, submits to the log and frees
// space once the records lie under a cosigned checkpoint that it has verified.
//
// Every opening of a spool begins a new incarnation, so that a spool that was
// restored from an old copy, or copied, never says two things under one
// sequence. The start record names the last seal of the incarnation before:
// nothing can be cut off in between.
//
// Start with [Open].
package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"filippo.io/age"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/durable"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
)

var (
	// ErrFull says that the spool holds as much as it may: the log has not taken
	// its records for too long.
	ErrFull = errors.New("spool is full")
	// ErrDamaged says that a spool's files are not what was written.
	ErrDamaged = errors.New("spool is damaged")
	// ErrInUse says that another process holds the spool.
	ErrInUse = errors.New("spool is in use by another process")
	// ErrEnded says that the log takes no records of this producer any more: its key
	// was revoked.
	ErrEnded = errors.New("the log takes no more records with this proxy's key")
	// ErrClosed says that the spool was closed.
	ErrClosed = errors.New("spool is closed")
)

// Config says how a spool works.
type Config struct {
	Dir        string          // made if it does not exist
	Key        *keys.Private   // the producer's key; required
	Recipients []age.Recipient // who can read openings; required if records have sealed fields
	Log        *client.Client  // where entries go; nil keeps them in the spool
	Version    string          // of the program, for start records

	SegmentSize int64         // bytes of a file; 0 means a 16th of MaxBytes, from 1 to 16 MiB
	MaxBytes    int64         // bytes of all files, at least 4 of them; 0 means 1 GiB
	SegmentAge  time.Duration // how old a file grows whose beginning was confirmed; 0 means 1 h
	Heartbeat   time.Duration // longest silence; 0 means 10 s
	SealDelay   time.Duration // how long a record may wait for others before it is sealed; 0 means 20 ms
	SealEvery   time.Duration // shortest time between two seals; 0 means 200 ms

	ReceiptDelay time.Duration // how soon receipts promise records to be in the log, whole seconds; 0 means 1 h

	Logger *slog.Logger // nil discards
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.Heartbeat, 10*time.Second)
	def(&c.SealDelay, 20*time.Millisecond)
	def(&c.SealEvery, 200*time.Millisecond)
	def(&c.SegmentAge, time.Hour)
	def(&c.ReceiptDelay, defaultReceiptDelay)
	if c.MaxBytes == 0 {
		c.MaxBytes = 1 << 30
	}
	if c.SegmentSize == 0 {
		c.SegmentSize = min(max(c.MaxBytes/16, 1<<20), 16<<20)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Spool is an open spool. Its methods can be called from many goroutines.
type Spool struct {
	cfg    Config
	signer note.Signer
	lock   *os.File
	stream record.Stream
	sealer *record.OpeningSealer // nil without recipients

	mu      sync.Mutex
	next    uint64   // sequence of the next record
	clock   int64    // time of the newest record
	back    int64    // how far the clock has stood behind that since the last beacon
	behind  bool     // it still does
	batch   *batch   // what waits for the next commit
	leading bool     // somebody commits
	stopped bool     // the stop record is durable
	failed  error    // set once: nothing is taken any more
	noSpare error    // why there is no next segment: no exchange begins
	ended   error    // why the log takes nothing of this producer any more: no exchange begins
	bytes   int64    // of all segments
	end     position // where durable frames end
	freed   []byte   // buffer of a former batch, to be used again

	// Changed by whoever leads a commit, under mu.
	seg           *segment
	tree          *record.Tree // of durable records
	sealed        uint64       // size of the newest durable seal
	root          record.Hash  // of the newest durable seal
	unsealedBytes int
	open          map[[16]byte]struct{} // exchanges with a durable request record and no durable response record

	spare     chan spareSegment
	preparing bool // something will come from spare; belongs to whoever leads a commit

	durable  chan struct{} // a token when records became durable
	progress chan struct{} // a token when something can be submitted
	sub      submitter
	stats    stats
}

type stats struct {
	records, seals, commits, submitted, confirmed atomic.Uint64
}

type segment struct {
	number uint64
	file   *os.File
	size   int64 // of the file, from the beginning
	end    int64 // where durable frames end
	begun  time.Time
}

// position is a place in the sequence of all frames.
type position struct {
	segment uint64
	offset  int64
}

type spareSegment struct {
	seg *segment
	err error
}

// What may be kept beyond the last record that begins an exchange: a segment to
// end those that are under way, and the next segment, which is made beforehand.
const (
	closingSegments = 1
	spareSegments   = 1
	leastSegments   = 2 + closingSegments + spareSegments
)

// maxRecord bounds a record with its openings, so that what lies between two
// seals stays within what the log takes in one request.
const maxRecord = 4 << 20

// Open opens the spool in cfg.Dir, or makes one, recovers what is in it and
// writes the start record of a new incarnation.
func Open(cfg Config) (*Spool, error) {
	cfg = cfg.withDefaults()
	if cfg.MaxBytes < leastSegments*cfg.SegmentSize {
		return nil, fmt.Errorf("a spool of at most %d bytes is too small: it needs %d", cfg.MaxBytes, leastSegments*cfg.SegmentSize)
	}
	signer, err := cfg.Key.Signer()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making spool directory: %w", err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &Spool{
		cfg:      cfg,
		signer:   signer,
		lock:     lock,
		stream:   record.NewStream(cfg.Key.ID()),
		batch:    newBatch(),
		open:     make(map[[16]byte]struct{}),
		tree:     record.NewTree(),
		spare:    make(chan spareSegment),
		durable:  make(chan struct{}, 1),
		progress: make(chan struct{}, 1),
	}
	if len(cfg.Recipients) > 0 {
		if s.sealer, err = record.NewOpeningSealer(cfg.Recipients...); err != nil {
			lock.Close()
			return nil, err
		}
	}
	s.sub.reader.dir, s.sub.reader.keys = cfg.Dir, make(map[record.KeyID]*sealtapv1.WrappedKey)
	s.sub.kick, s.sub.room, s.sub.first = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)
	s.restoreConfirmed() // before there is anything new in the spool
	err = s.begin()
	if err == nil {
		err = s.rewind()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening spool %s: %w", cfg.Dir, err), s.releaseFiles())
	}
	return s, nil
}

// lockDir takes the lock that keeps other processes away.
func lockDir(dir string) (*os.File, error) {
	f, err := durable.Lock(filepath.Join(dir, "LOCK"))
	if errors.Is(err, durable.ErrLocked) {
		return nil, fmt.Errorf("%w: %s", ErrInUse, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("opening spool: %w", err)
	}
	return f, nil
}

// Stream names the incarnation that the spool writes.
func (s *Spool) Stream() record.Stream { return s.stream }

// Record numbers, encodes and keeps a record, and returns once it is durable.
// The caller sets Exchange, About and openings (field, type and value) of the
// fields that are sealed; everything else is set here. After an error the
// exchange must not go on. The context is not looked at once the record has its
// sequence: a number that was given out is never taken back.
func (s *Spool) Record(ctx context.Context, r *sealtapv1.Record, openings []*sealtapv1.Opening) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.record(r, openings, s.admit)
}

// record is Record for those who may exceed what the spool may hold.
func (s *Spool) record(r *sealtapv1.Record, openings []*sealtapv1.Opening, admit func(*sealtapv1.Record) error) error {
	_, _, err := s.put(r, openings, admit, false)
	return err
}

// put makes a record durable. It returns the batch in which it became so, and the
// place among the promises there if one is to be made.
func (s *Spool) put(r *sealtapv1.Record, openings []*sealtapv1.Opening, admit func(*sealtapv1.Record) error, promised bool) (*batch, int, error) {
	s.mu.Lock()
	for s.batch.full() {
		b := s.batch
		s.mu.Unlock()
		<-b.done
		s.mu.Lock()
	}
	err := s.failed
	if err == nil {
		err = admit(r)
	}
	b := s.batch
	if err == nil {
		err = s.append(b, r, openings)
	}
	if err != nil {
		s.mu.Unlock()
		return nil, 0, err
	}
	place := 0
	if promised {
		place = s.promise(b, r)
	}
	return b, place, s.await(b)
}

// admit says whether there is room for the record. It needs mu.
func (s *Spool) admit(r *sealtapv1.Record) error {
	switch {
	case r.GetConfig() != nil:
		return nil // comes with a start; a spool that is full can be opened
	case r.GetRequest() != nil && s.ended != nil:
		return s.ended
	case r.GetRequest() != nil && s.noSpare != nil:
		return fmt.Errorf("%w: %w", ErrFull, s.noSpare)
	case r.GetRequest() != nil:
		return s.roomFor(closingSegments)
	}
	return s.roomFor(0)
}

// always admits a record of the spool's own: there are few in a life.
func always(*sealtapv1.Record) error { return nil }

// append adds the frame of a record to the batch. It needs mu.
func (s *Spool) append(b *batch, r *sealtapv1.Record, openings []*sealtapv1.Opening) error {
	r.Producer, r.Incarnation, r.Sequence = s.stream.Producer[:], s.stream.Incarnation[:], s.next
	r.Time = s.now(r.GetBeacon())
	if len(openings) > 0 && s.sealer == nil {
		return errors.New("sealing fields: no recipient of openings is configured")
	}
	r.Sealed = r.Sealed[:0]
	for i, o := range openings {
		openings[i] = record.NewOpening(o.GetField(), o.GetType(), o.GetValue())
		c := record.Commitment(s.stream, s.next, openings[i])
		r.Sealed = append(r.Sealed, &sealtapv1.SealedField{Field: o.GetField(), Commitment: c[:]})
	}
	entry, err := record.Encode(r)
	if err != nil {
		return err
	}
	leaf := record.LeafHash(entry)
	var box []byte
	if len(openings) > 0 {
		if box, err = s.sealer.Seal(leaf, openings); err != nil {
			return err
		}
	}
	if n := int64(len(entry) + len(box)); n > min(maxRecord, s.cfg.SegmentSize/2) {
		return fmt.Errorf("a record of %d bytes with its openings is too large", n)
	}
	id, ok := exchangeOf(r)
	b.addRecord(entry, box, noted{leaf: leaf, exchange: id, opens: ok && r.GetRequest() != nil, closes: ok && r.GetResponse() != nil})
	s.next++
	s.clock = r.Time
	return nil
}

// clockStep is by how much a clock has to be set back for that to be recorded.
const clockStep = int64(time.Second)

// now is the time of the next record. It never runs backwards within an incarnation,
// whatever the clock does; that the clock did is said by the next beacon. It needs mu.
func (s *Spool) now(beacon *sealtapv1.Beacon) int64 {
	now := time.Now().UnixNano()
	back := s.clock - now
	if back >= clockStep && !s.behind {
		s.cfg.Logger.Warn("the clock was set back: records have the time of the newest one until it has caught up", "by", time.Duration(back))
	}
	s.back, s.behind = max(s.back, back), back >= clockStep
	if beacon != nil {
		if s.back >= clockStep {
			beacon.ClockBackNs = uint64(s.back)
		}
		s.back = 0
	}
	return max(now, s.clock+1)
}

func exchangeOf(r *sealtapv1.Record) (id [16]byte, ok bool) {
	if len(r.GetExchange()) != len(id) {
		return id, false
	}
	return [16]byte(r.GetExchange()), true
}

// fail stops the spool: what follows fails closed until it is opened anew.
func (s *Spool) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
		if !errors.Is(err, ErrClosed) {
			s.cfg.Logger.Error("spool stopped: no exchange passes until the proxy is restarted", "dir", s.cfg.Dir, "error", err)
		}
	}
}

// Err returns why the spool takes no records, or nil.
func (s *Spool) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// Status is where a spool stands.
type Status struct {
	Records   uint64 // durable in this life
	Sealed    uint64 // of them, under a seal
	Submitted uint64 // entries that the log acknowledged in this life
	Confirmed uint64 // entries found under a cosigned checkpoint in this life
	Commits   uint64 // fdatasyncs
	Bytes     int64  // of all files
	Limit     int64  // of Bytes
	Waiting   int    // entries that the log has taken and that are under no cosigned checkpoint yet
	Open      int    // exchanges in flight
}

// Status returns where the spool stands.
func (s *Spool) Status() Status {
	s.sub.mu.Lock()
	waiting := s.sub.unconfirmed
	s.sub.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return Status{
		Records: s.stats.records.Load(), Sealed: s.sealed,
		Submitted: s.stats.submitted.Load(), Confirmed: s.stats.confirmed.Load(), Commits: s.stats.commits.Load(),
		Bytes: s.bytes, Limit: s.cfg.MaxBytes, Waiting: waiting, Open: len(s.open),
	}
}
