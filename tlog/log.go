// Package tlog is the transparency log: it takes entries of enrolled producers,
// puts them into one order, keeps their Merkle tree, has its checkpoints
// cosigned by witnesses, and serves them as C2SP tlog-tiles
// (https://c2sp.org/tlog-tiles) with proofs beside.
//
// Call [Open], mount [Log.Handler], and keep [Log.Run] running.
//
// Everything goes one way: an entry is durable before it is acknowledged or
// signed for, a checkpoint is durable before a witness sees it, and what readers
// see is covered by a checkpoint that satisfies the policy.
package tlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/tlog/tiles"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/policy"
)

var (
	// ErrConfig is wrapped where a configuration does not fit together, or does
	// not fit what is stored.
	ErrConfig = errors.New("log configuration")
	// ErrBehind is wrapped where the stored entries are older than a checkpoint
	// that was signed: going on would fork the log.
	ErrBehind = errors.New("entries are older than the last signed checkpoint")
	// ErrNotPublished is wrapped where something is asked for that no published
	// checkpoint covers, yet or at all.
	ErrNotPublished = errors.New("not in the published log")
)

// Cosigner collects cosignatures. *witness.Client implements it.
type Cosigner interface {
	// Cosign returns the checkpoint with cosignatures. If they do not satisfy the
	// policy it may return an error as well.
	Cosign(ctx context.Context, signed []byte, consistency witness.Consistency) ([]byte, error)
	// Status returns what is known of the witnesses.
	Status() []witness.WitnessStatus
}

// Config is what a log is made of.
type Config struct {
	// Key signs checkpoints; its name is the log's origin. Required.
	Key *keys.Private
	// PostQuantumKey signs checkpoints beside Key: of type 0x06, with the same name.
	// The operator's statements must name it. Nil: the log has none.
	PostQuantumKey *keys.Private
	// Operator signs the genesis of a new log, and the statement that names
	// PostQuantumKey in one that exists. Nil: the log must exist, and name its keys.
	Operator *keys.Private
	// Begin are the entries with which a new log begins: a genesis, and the
	// statements behind it, made elsewhere. Nil: Operator signs a genesis.
	Begin [][]byte
	// Storage keeps the log. The caller closes it, after Run has returned. Required.
	Storage storage.Log
	// Follow says that others share the storage: Run is called while this log is the
	// one that writes, and Follow while it is not. Open starts a new log only if the
	// storage lets it.
	Follow bool
	// Openings keeps encrypted openings. Nil: submissions with openings are refused.
	Openings storage.Openings
	// Policy says what must be true of a checkpoint to be published. It names
	// this log, by both keys if it has two (see [OwnPolicy]). Required.
	Policy *policy.Policy
	// Cosigner asks the witnesses. Nil: nobody is asked, which suits a policy
	// without a quorum only.
	Cosigner Cosigner
	// CheckpointInterval is the least time between two checkpoints. 0: 100 ms.
	CheckpointInterval time.Duration
	// MaxBatchEntries bounds a submission. 0: 4096.
	MaxBatchEntries int
	// MaxBatchBytes bounds a submission. 0: 8 MiB.
	MaxBatchBytes int
	// MaxQueue and MaxQueueBytes bound the submissions that wait to be stored;
	// MaxQueue also those that wait for a checkpoint. 0: 4096, 64 MiB.
	MaxQueue, MaxQueueBytes int
	// ProducerBytesPerSecond is what each producer may submit on average; one second's
	// worth, or a batch of the largest size, may come at once. 0: 64 MiB.
	ProducerBytesPerSecond int
	// MaxReadingBytes bounds the bodies of all requests together that are being read.
	// One of the largest size always fits. 0: 64 MiB.
	MaxReadingBytes int
	// PublishWait bounds how long a submission waits for a checkpoint. 0: 20 s, less
	// than what clients commonly wait for an answer.
	PublishWait time.Duration
	// CacheBytes is about the memory for tree nodes, seven eighths of it, and for
	// bundles compressed as the storage does not keep them. 0: 64 MiB.
	CacheBytes int
	// LeafIndex finds the index of an entry by its leaf hash. Nil: proofs are
	// served by index only.
	LeafIndex func(ctx context.Context, leaf record.Hash) (uint64, bool, error)
	// PruneInterval is the time between two looks at what the retention policy
	// allows to let go of, and how closely the log knows the age of its entries.
	// 0: 1 hour.
	PruneInterval time.Duration
	// OnPrune is told of every new minimum index, once it is durable. Nil: nobody is.
	OnPrune func(minimum uint64)
	// Metrics is where the log's metrics are registered and what /metrics serves.
	// Nil: a registry of its own.
	Metrics *prometheus.Registry
	// Logger is told what an operator should know. Nil: nobody is.
	Logger *slog.Logger
}

func (c *Config) setDefaults() {
	if c.CheckpointInterval == 0 {
		c.CheckpointInterval = 100 * time.Millisecond
	}
	if c.PruneInterval == 0 {
		c.PruneInterval = time.Hour
	}
	if c.PublishWait == 0 {
		c.PublishWait = 20 * time.Second
	}
	for _, d := range []struct {
		value *int
		zero  int
	}{{&c.MaxBatchEntries, 4096}, {&c.MaxBatchBytes, 8 << 20}, {&c.MaxQueue, 4096}, {&c.MaxQueueBytes, 64 << 20},
		{&c.MaxReadingBytes, 64 << 20}, {&c.ProducerBytesPerSecond, 64 << 20}, {&c.CacheBytes, 64 << 20}} {
		if *d.value == 0 {
			*d.value = d.zero
		}
	}
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

func (c *Config) check() error {
	switch {
	case c.Key == nil || c.Storage == nil || c.Policy == nil:
		return fmt.Errorf("%w: a log needs a key, storage and a policy", ErrConfig)
	case c.Key.Type != keys.Ed25519:
		return fmt.Errorf("%w: key %q has signature type 0x%02x; a log's has 0x%02x", ErrConfig, c.Key.Name, byte(c.Key.Type), byte(keys.Ed25519))
	case strings.HasPrefix(c.Key.Name, record.OriginPrefix):
		return fmt.Errorf("%w: the name %q of the log's key starts like the origin of a seal", ErrConfig, c.Key.Name)
	}
	return c.checkKeys()
}

// Log is a transparency log. Its methods can be called by many goroutines, Run
// once. With Config.Follow, Run and Follow are called in turns.
type Log struct {
	config   Config
	origin   string
	signers  []note.Signer  // of the keys of the log
	verifier note.Verifiers // of the same
	metrics  *metrics
	cache    *tiles.Cache

	compressor *compressor
	gzipped    *codedCache

	queue       chan *submission
	queued      atomic.Int64 // submissions in the queue and behind the commit under way
	queuedBytes atomic.Int64 // theirs
	waiting     atomic.Int64 // submissions that wait for a checkpoint
	budgets     *budgets
	bodies      bodies // of the requests that are being read
	term        atomic.Pointer[term]
	behind      atomic.Bool  // a witness has cosigned more than is stored
	looked      atomic.Int64 // when a log that follows has looked at the storage last, in nanoseconds since 1970; 0: it does not follow

	// durable is what is stored. The writer replaces it.
	durable atomic.Pointer[snapshot]
	// published is nil until there is a checkpoint to show. The publisher
	// replaces it.
	published atomic.Pointer[policy.Checkpoint]
	news      bell                     // rings after published was replaced
	note      atomic.Pointer[noteText] // of published, once somebody has asked for it

	ringMu sync.RWMutex
	ring   *record.Keyring // the writer changes it
	// statements are the indices of the operator's; the writer appends to them.
	statements []uint64

	pruner storage.Pruner         // nil if the storage cannot
	pruned atomic.Pointer[pruned] // the pruner's, once the log is open

	seq    *sequencer    // the writer's
	signed *storage.Head // the publisher's: the last one signed, nil if none

	healthMu sync.Mutex
	health   health
}

// snapshot is the log at one size. It does not change.
type snapshot struct {
	size    uint64
	root    record.Hash
	partial []tiles.Tile  // of the right edge
	head    []byte        // the last size%256 entries in the form of a bundle
	recent  []recent      // the newest complete bundles, in order
	next    chan struct{} // closed when there is a newer snapshot
}

// Open opens the log in the storage, or starts one where there is none.
func Open(ctx context.Context, c Config) (*Log, error) {
	c.setDefaults()
	if err := c.check(); err != nil {
		return nil, err
	}
	l := &Log{
		config:  c,
		origin:  c.Key.Name,
		queue:   make(chan *submission, c.MaxQueue),
		budgets: newBudgets(c.ProducerBytesPerSecond, c.MaxBatchBytes),
	}
	l.term.Store(newTerm())
	l.bodies.max, l.bodies.patience = int64(max(c.MaxReadingBytes, l.bodyLimit())), bodyPatience
	var err error
	if err = l.openKeys(); err != nil {
		return nil, err
	}
	if l.compressor, err = newCompressor(); err != nil {
		return nil, err
	}
	l.pruner, _ = c.Storage.(storage.Pruner)
	l.pruned.Store(new(pruned))
	l.cache = tiles.NewCache(treeReader{l}, max(16, (c.CacheBytes-c.CacheBytes/codedShare)/tiles.CachedBytes))
	l.gzipped = newCodedCache(c.CacheBytes / codedShare)
	state, err := l.restore(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening log %q: %w", l.origin, err)
	}
	if err := l.restorePruned(ctx); err != nil {
		return nil, fmt.Errorf("opening log %q: %w", l.origin, err)
	}
	doubt, err := l.restoreHeads(ctx, state)
	if err != nil {
		return nil, fmt.Errorf("opening log %q: %w", l.origin, err)
	}
	l.doubts(doubt)
	if l.signed == nil {
		close(l.term.Load().asked) // there is nothing to ask them about
	}
	if l.metrics, err = newMetrics(l); err != nil {
		return nil, fmt.Errorf("opening log %q: %w", l.origin, err)
	}
	if c.Follow {
		l.term.Load().stop() // until it writes
		l.hasLooked()
		return l, nil
	}
	if err := l.nameKey(); err != nil {
		return nil, fmt.Errorf("opening log %q: %w", l.origin, err)
	}
	return l, nil
}

// Origin is the log's origin line.
func (l *Log) Origin() string { return l.origin }

// Size is the number of entries that are durable.
func (l *Log) Size() uint64 { return l.durable.Load().size }

// Published is the size of the newest published checkpoint, 0 if there is none.
func (l *Log) Published() uint64 {
	if cp := l.published.Load(); cp != nil {
		return cp.Size
	}
	return 0
}

// Checkpoint returns the newest published checkpoint with its cosignatures, and
// reports whether there is one.
func (l *Log) Checkpoint() (signed []byte, body checkpoint.Body, ok bool) {
	cp := l.published.Load()
	if cp == nil {
		return nil, checkpoint.Body{}, false
	}
	return cp.Note, checkpoint.Body{Origin: cp.Origin, Size: cp.Size, Root: cp.Root}, true
}

// Wait returns once the log has more than size durable entries, or with the
// error of the context.
func (l *Log) Wait(ctx context.Context, size uint64) error {
	for {
		s := l.durable.Load()
		if s.size > size {
			return nil
		}
		select {
		case <-s.next:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Run takes submissions and publishes checkpoints until the context ends. After
// that submissions are refused with [ErrStopped].
func (l *Log) Run(ctx context.Context) error {
	if l.config.Follow {
		if err := l.takeOver(ctx); err != nil {
			return fmt.Errorf("taking over log %q: %w", l.origin, err)
		}
	}
	t := l.term.Load()
	defer context.AfterFunc(ctx, t.end)()
	var wg sync.WaitGroup
	wg.Go(func() {
		l.write(ctx)
		l.refuseQueued() // the others may take long, if the storage is away
	})
	wg.Go(func() { l.publishLoop(ctx) })
	wg.Go(func() { l.pruneLoop(ctx) })
	wg.Wait()
	t.stop()
	l.refuseQueued() // who came while the writer ended
	l.hasLooked()
	return nil
}

// health is what readiness depends on.
type health struct {
	writing    error // why nothing can be stored; nil: it can
	publishing error // why the last attempt to publish failed
}

func (l *Log) setWriting(err error) {
	l.healthMu.Lock()
	defer l.healthMu.Unlock()
	l.health.writing = err
}

func (l *Log) setPublishing(err error) {
	l.healthMu.Lock()
	defer l.healthMu.Unlock()
	l.health.publishing = err
}

// Ready returns nil if entries are being taken and checkpoints published, and the
// storage, where it can say, is sound; else what is wrong.
func (l *Log) Ready() error {
	l.healthMu.Lock()
	h := l.health
	l.healthMu.Unlock()
	for _, s := range []any{l.config.Storage, l.config.Openings} {
		if s, ok := s.(interface{ Health() error }); ok && s.Health() != nil {
			return s.Health()
		}
	}
	switch {
	case h.writing != nil:
		return fmt.Errorf("entries cannot be stored: %w", h.writing)
	case h.publishing != nil:
		return fmt.Errorf("entries are taken, but no new checkpoint is published: %w", h.publishing)
	case l.published.Load() == nil:
		return fmt.Errorf("no checkpoint is published yet")
	}
	if l.config.Follow {
		return l.lately()
	}
	if !l.Writing() {
		return ErrStopped
	}
	return nil
}
