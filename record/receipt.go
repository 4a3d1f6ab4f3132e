package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/keys"
)

const (
	receiptHeader  = "sealtap/receipt/v1"
	promiseDomain  = "sealtap/promise/v1\x00"
	receiptVersion = 0x01
	signatureSize  = 64
	receiptPath    = 10 // a commit has at most 1024 records

	// MaxReceiptDelay is the longest delay that a receipt can promise.
	MaxReceiptDelay = 1<<32 - 1
)

// Promise says that a record exists, and will lie in the log under a cosigned
// head at the latest Delay after its time.
type Promise struct {
	Stream   Stream
	Sequence uint64
	Time     int64 // of the record, nanoseconds since the Unix epoch
	Leaf     Hash  // of the record
	Delay    uint32
}

// hash is the leaf of the promise in the tree of its batch.
func (p *Promise) hash() Hash {
	b := make([]byte, 0, 160)
	b = append(b, 0x00)
	b = append(b, promiseDomain...)
	return sha256.Sum256(p.append(b))
}

// append appends the fields of a promise, all of fixed length.
func (p *Promise) append(b []byte) []byte {
	b = append(append(b, p.Stream.Producer[:]...), p.Stream.Incarnation[:]...)
	b = binary.BigEndian.AppendUint64(b, p.Sequence)
	b = binary.BigEndian.AppendUint64(b, uint64(p.Time))
	b = append(b, p.Leaf[:]...)
	return binary.BigEndian.AppendUint32(b, p.Delay)
}

const promiseSize = 32 + 16 + 8 + 8 + 32 + 4

// Due is when the record has to be in the log.
func (p *Promise) Due() time.Time {
	return time.Unix(0, p.Time).Add(time.Duration(p.Delay) * time.Second)
}

// Receipt is a promise that its producer has signed, together with others that
// became durable at the same moment: one signature over the root of a small tree.
type Receipt struct {
	Promise
	Name      string // of the producer's key
	KeyHash   uint32 // the key ID of signed-note
	Index     uint16 // of the promise in its batch
	Count     uint16 // of promises in the batch
	Path      []Hash
	Signature [signatureSize]byte
}

// Promises is a batch of promises, signed.
type Promises struct {
	levels  [][]Hash
	list    []Promise
	name    string
	keyHash uint32
	sig     [signatureSize]byte
}

// SignPromises signs a batch of up to 1024 promises of one stream with one
// signature. The records must be durable by then.
func SignPromises(list []Promise, signer note.Signer) (*Promises, error) {
	b := &Promises{list: list, name: signer.Name(), keyHash: signer.KeyHash()}
	if len(list) == 0 || len(list) > 1<<receiptPath {
		return nil, fmt.Errorf("signing receipts: %d in a batch, from 1 to %d can be", len(list), 1<<receiptPath)
	}
	level := make([]Hash, len(list))
	for i := range list {
		level[i] = list[i].hash()
	}
	// The tree of RFC 6962: a node without sibling goes up as it is.
	for b.levels = append(b.levels, level); len(level) > 1; b.levels = append(b.levels, level) {
		next := make([]Hash, 0, (len(level)+1)/2)
		for i := 0; i+1 < len(level); i += 2 {
			next = append(next, Hash(hashChildren(level[i][:], level[i+1][:])))
		}
		if len(level)%2 == 1 {
			next = append(next, level[len(level)-1])
		}
		level = next
	}
	sig, err := signer.Sign(receiptText(list[0].Stream, len(list), level[0]))
	if err != nil || len(sig) != signatureSize {
		return nil, fmt.Errorf("signing receipts: %w", err)
	}
	copy(b.sig[:], sig)
	return b, nil
}

// Receipt returns the receipt of a promise of the batch.
func (b *Promises) Receipt(i int) *Receipt {
	r := &Receipt{Promise: b.list[i], Name: b.name, KeyHash: b.keyHash, Index: uint16(i), Count: uint16(len(b.list)), Signature: b.sig}
	for _, level := range b.levels[:len(b.levels)-1] {
		if sibling := i ^ 1; sibling < len(level) {
			r.Path = append(r.Path, level[sibling])
		}
		i /= 2
	}
	return r
}

// receiptText is the text of the note that a producer signs for a batch. Neither a
// seal nor any checkpoint reads like it: their second line is a number.
func receiptText(s Stream, count int, root Hash) []byte {
	return fmt.Appendf(nil, "%s\nproducer %s\nincarnation %s\npromises %d\nroot %s\n",
		receiptHeader, s.Producer, s.Incarnation, count, base64.StdEncoding.EncodeToString(root[:]))
}

// String returns the receipt as it stands in a header: base64.
func (r *Receipt) String() string {
	b := make([]byte, 0, 256+32*len(r.Path))
	b = append(b, receiptVersion, byte(len(r.Name)))
	b = append(b, r.Name...)
	b = binary.BigEndian.AppendUint32(b, r.KeyHash)
	b = r.append(b)
	b = binary.BigEndian.AppendUint16(b, r.Index)
	b = binary.BigEndian.AppendUint16(b, r.Count)
	b = append(b, byte(len(r.Path)))
	for _, h := range r.Path {
		b = append(b, h[:]...)
	}
	return base64.StdEncoding.EncodeToString(append(b, r.Signature[:]...))
}

// ParseReceipt is the inverse of [Receipt.String]. It verifies nothing.
func ParseReceipt(text string) (*Receipt, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < 2 || b[0] != receiptVersion {
		return nil, fmt.Errorf("%w: not a receipt", ErrMalformed)
	}
	name := int(b[1])
	const rest = 4 + promiseSize + 2 + 2 + 1
	if b = b[2:]; len(b) < name+rest+signatureSize {
		return nil, fmt.Errorf("%w: a receipt of %d bytes is too short", ErrMalformed, len(b))
	}
	r := &Receipt{Name: string(b[:name])}
	b = b[name:]
	r.KeyHash, b = binary.BigEndian.Uint32(b), b[4:]
	b = b[copy(r.Stream.Producer[:], b):]
	b = b[copy(r.Stream.Incarnation[:], b):]
	r.Sequence, b = binary.BigEndian.Uint64(b), b[8:]
	r.Time, b = int64(binary.BigEndian.Uint64(b)), b[8:]
	b = b[copy(r.Leaf[:], b):]
	r.Delay, b = binary.BigEndian.Uint32(b), b[4:]
	r.Index, r.Count = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	n := int(b[4])
	if b = b[5:]; n > receiptPath || len(b) != 32*n+signatureSize || r.Time < 0 {
		return nil, fmt.Errorf("%w: a receipt with %d hashes and %d bytes behind them", ErrMalformed, n, len(b))
	}
	for range n {
		r.Path = append(r.Path, Hash(b[:32]))
		b = b[32:]
	}
	copy(r.Signature[:], b)
	return r, nil
}

// Verify checks that the producer with this key has signed the receipt.
func (r *Receipt) Verify(key keys.Public) error {
	v, err := key.Verifier()
	switch {
	case err != nil:
		return err
	case key.ID() != r.Stream.Producer:
		return fmt.Errorf("the receipt names producer %s, the key is %s", r.Stream.Producer, key.ID())
	case key.Name != r.Name || v.KeyHash() != r.KeyHash:
		return fmt.Errorf("the receipt names the key %s+%08x, the producer's is %s+%08x", r.Name, r.KeyHash, key.Name, v.KeyHash())
	}
	path := make([][]byte, len(r.Path))
	for i := range r.Path {
		path[i] = r.Path[i][:]
	}
	leaf := r.hash()
	root, err := proof.RootFromInclusionProof(rfc6962.DefaultHasher, uint64(r.Index), uint64(r.Count), leaf[:], path)
	if err != nil {
		return fmt.Errorf("%w: the receipt does not lead to a signed root: %w", ErrMalformed, err)
	}
	if !v.Verify(receiptText(r.Stream, int(r.Count), Hash(root)), r.Signature[:]) {
		return fmt.Errorf("the receipt is not signed by producer %q", key.Name)
	}
	return nil
}

// ReceiptName is the header, and the trailer, in which receipts stand.
const ReceiptName = "Sealtap-Receipt"

// FindReceipts returns the receipts in a text: values of the header, one or more to a
// line, or the dump of an answer with its headers and trailers.
func FindReceipts(text []byte) ([]*Receipt, error) {
	var list []*Receipt
	bare := !bytes.Contains(bytes.ToLower(text), []byte(strings.ToLower(ReceiptName)+":"))
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		name, value, ok := strings.Cut(line, ":")
		switch {
		case bare:
			value = line
		case !ok || !strings.EqualFold(strings.TrimLeft(name, "< "), ReceiptName):
			continue
		}
		for v := range strings.SplitSeq(value, ",") {
			if v = strings.TrimSpace(v); v == "" {
				continue
			}
			r, err := ParseReceipt(v)
			if err != nil {
				return nil, err
			}
			list = append(list, r)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: there is no receipt", ErrMalformed)
	}
	return list, nil
}

// ID names the record of the promise for people.
func (p *Promise) ID() string {
	return fmt.Sprintf("%s/%s #%d", hex.EncodeToString(p.Stream.Producer[:4]), p.Stream.Incarnation, p.Sequence)
}
