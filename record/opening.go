package record

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"filippo.io/age"
	"google.golang.org/protobuf/proto"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

const (
	boxVersion = 0x01
	nonceSize  = 12
	dataKey    = 32
	boxHeader  = 1 + 16 + nonceSize
)

// KeyID names a data key.
type KeyID [16]byte

// ErrNoDataKey says that the data key of some openings is not at hand: it was
// erased, or never arrived.
var ErrNoDataKey = errors.New("no data key")

// OpeningSealer encrypts openings on their way to the log and at rest. Its data
// key lives in memory only, for one life of the producer, and leaves it only
// wrapped to the recipients.
type OpeningSealer struct {
	id      KeyID
	wrapped []byte
	aead    cipher.AEAD
	nonce   atomic.Uint64
}

// NewOpeningSealer makes a data key that the holders of the recipients'
// identities can unwrap.
func NewOpeningSealer(recipients ...age.Recipient) (*OpeningSealer, error) {
	s := new(OpeningSealer)
	key := make([]byte, dataKey)
	randRead(key)
	randRead(s.id[:])
	var buf bytes.Buffer
	w, err := age.Encrypt(&buf, recipients...)
	if err == nil {
		_, err = w.Write(append(s.id[:], key...))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("wrapping data key: %w", err)
	}
	s.wrapped = buf.Bytes()
	s.aead, err = newAEAD(key)
	return s, err
}

// WrappedKey returns the data key, encrypted to the recipients.
func (s *OpeningSealer) WrappedKey() *sealtapv1.WrappedKey {
	return &sealtapv1.WrappedKey{Id: s.id[:], Wrapped: s.wrapped}
}

// Seal encrypts the openings of the record whose leaf hash is given. It can be
// called from many goroutines.
func (s *OpeningSealer) Seal(leaf Hash, openings []*sealtapv1.Opening) ([]byte, error) {
	plain, err := proto.Marshal(&sealtapv1.Openings{Openings: openings})
	if err != nil {
		return nil, fmt.Errorf("encoding openings: %w", err)
	}
	box := make([]byte, boxHeader, boxHeader+len(plain)+s.aead.Overhead())
	box[0] = boxVersion
	copy(box[1:], s.id[:])
	// The key is fresh for each life, so a counter never repeats a nonce.
	binary.BigEndian.PutUint64(box[boxHeader-8:], s.nonce.Add(1))
	return s.aead.Seal(box, box[boxHeader-nonceSize:boxHeader], plain, leaf[:]), nil
}

// BoxKey returns which data key an encrypted opening needs.
func BoxKey(box []byte) (KeyID, error) {
	if len(box) < boxHeader || box[0] != boxVersion {
		return KeyID{}, fmt.Errorf("%w: not encrypted openings", ErrMalformed)
	}
	return KeyID(box[1:17]), nil
}

// OpenBox decrypts the openings of the record whose leaf hash is given. It does
// not check them against the record: see [CheckOpening].
func OpenBox(box []byte, leaf Hash, key []byte) ([]*sealtapv1.Opening, error) {
	if _, err := BoxKey(box); err != nil {
		return nil, err
	}
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, box[boxHeader-nonceSize:boxHeader], box[boxHeader:], leaf[:])
	if err != nil {
		return nil, fmt.Errorf("decrypting openings: %w", err)
	}
	var o sealtapv1.Openings
	if err := proto.Unmarshal(plain, &o); err != nil {
		return nil, fmt.Errorf("%w: openings: %w", ErrMalformed, err)
	}
	return o.GetOpenings(), nil
}

// UnwrapKey decrypts a data key.
func UnwrapKey(w *sealtapv1.WrappedKey, identities ...age.Identity) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(w.GetWrapped()), identities...)
	if errors.As(err, new(*age.NoIdentityMatchError)) {
		return nil, fmt.Errorf("%w: it is wrapped for somebody else", ErrNoDataKey)
	}
	if err != nil {
		return nil, fmt.Errorf("unwrapping data key: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, 1024))
	if err != nil {
		return nil, fmt.Errorf("unwrapping data key: %w", err)
	}
	id, ok := bytes.CutPrefix(plain, w.GetId())
	if !ok || len(w.GetId()) != len(KeyID{}) || len(id) != dataKey {
		return nil, fmt.Errorf("%w: the wrapped data key is not the one it is named", ErrMalformed)
	}
	return id, nil
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("using data key: %w", err)
	}
	return cipher.NewGCM(block)
}
