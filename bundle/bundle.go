// Package bundle packs records of a search with all that proves them, to be handed
// over, and verifies such bundles offline. docs/formats.md has every byte of it.
//
// What a bundle proves of its records is proven by evidence as it stands in evidence
// files (package audit), under one cosigned checkpoint. A bundle of a search proves
// that its records are in the log, not that nothing else matched. A complete bundle
// shows all leaves of a range of the log beside: then nothing of that range can have
// been left out unseen, added or changed, though what stands there as a hash only is
// not told.
//
// Start with [Make], or with [Verify].
package bundle

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Format is the first line of every manifest, so to speak.
const Format = "sealtap/bundle/v1"

// ManifestName is the name of the member that a bundle begins with.
const ManifestName = "manifest.json"

// The other members, in their order.
const (
	readme      = "README.txt"
	policyFile  = "policy.txt"
	headFile    = "checkpoint"
	olderFile   = "since-checkpoint"
	consistent  = "consistency"
	keysFile    = "keys.evidence"
	recordsFile = "records.evidence"
	gapsFile    = "gaps.evidence"
	sealsFile   = "seals.evidence"
	rangeFile   = "range"
	leavesFile  = "leaves"
	reportJSON  = "report.json"
	reportHTML  = "report.html"
)

// order is the order of members. What a bundle does not need is absent.
func order() []string {
	return []string{readme, policyFile, headFile, olderFile, consistent, keysFile, recordsFile, gapsFile, sealsFile, rangeFile, leavesFile, reportJSON, reportHTML}
}

const (
	maxManifest = 1 << 20
	maxSmall    = 1 << 20  // of members that are read as a whole
	maxRange    = 32 << 20 // of the member range
	maxStreams  = 20_000   // in a complete bundle
	maxDocument = 1 << 20  // of one evidence: six entries and their proofs
	maxLine     = 96 << 10 // of leaves: an entry in base64
	maxShown    = 100_000  // records in one bundle
	maxPending  = 1 << 16  // leaves of streams that stand before an earlier one
	maxFindings = 1000
)

// ErrMalformed is wrapped where something is not in the form of a bundle.
var ErrMalformed = errors.New("malformed bundle")

// ErrExists is wrapped where a bundle would be written over something.
var ErrExists = errors.New("it is there already")

// Manifest says what a bundle holds. It proves nothing: the digests find damage, and
// the rest is what the maker says.
type Manifest struct {
	Format   string            `json:"format"`
	Origin   string            `json:"origin"`
	Size     uint64            `json:"size"`
	Root     string            `json:"root"`   // standard base64
	Filter   map[string]string `json:"filter"` // what was searched for
	Records  uint64            `json:"records"`
	Gaps     uint64            `json:"gaps"`
	Unsealed uint64            `json:"unsealed"` // records that matched and are left out: no seal covers them
	Unseen   uint64            `json:"unseen"`   // of records: those that could not be held against every filter
	Openings []string          `json:"openings"` // fields that are disclosed, where a record has them
	Range    *Range            `json:"range"`    // null unless the bundle is complete
	Members  []Member          `json:"members"`  // in their order, without the manifest
	Check    string            `json:"check"`    // SHA-256 of the manifest with an empty check
}

// Range is a range of indices of the log, without its end.
type Range struct {
	First uint64 `json:"first"`
	End   uint64 `json:"end"`
}

// Member is a file of the bundle.
type Member struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hexadecimal
}

// marshal returns the one spelling of the manifest, with its check.
func (m Manifest) marshal() ([]byte, error) {
	m.Check = ""
	b, err := encode(m)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	m.Check = hex.EncodeToString(sum[:])
	return encode(m)
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return b.Bytes(), err
}

// parseManifest takes the one spelling of a manifest, with members that a bundle can
// have, each once and in their order.
func parseManifest(b []byte) (*Manifest, error) {
	m := new(Manifest)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("%w: the manifest is not JSON as it should be: %w", ErrMalformed, err)
	}
	if m.Format != Format {
		return nil, fmt.Errorf("%w: the manifest is of format %.40q, this program knows %q", ErrMalformed, m.Format, Format)
	}
	if again, err := m.marshal(); err != nil || !bytes.Equal(again, b) {
		return nil, fmt.Errorf("%w: the manifest is damaged, or not in the one spelling: its check does not fit", ErrMalformed)
	}
	names := order()
	for _, x := range m.Members {
		for len(names) > 0 && names[0] != x.Name {
			names = names[1:]
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("%w: the manifest lists %.80q, which no bundle has in that place", ErrMalformed, x.Name)
		}
		names = names[1:]
		if x.Size < 0 || x.Size > maxMember {
			return nil, fmt.Errorf("%w: the manifest says that %s has %d bytes", ErrMalformed, x.Name, x.Size)
		}
	}
	return m, nil
}

// has reports whether the bundle has a member.
func (m *Manifest) has(name string) bool {
	for _, x := range m.Members {
		if x.Name == name {
			return true
		}
	}
	return false
}

const (
	block = 512
	// maxMember is what the header of ustar can say.
	maxMember = 1<<33 - 1
)

// header is the header of a member in an archive: that of POSIX.1-1988 (ustar), with
// everything in it fixed but name, size and checksum. There is no other one, so that
// neither links, nor paths, nor two readings of one header exist in a bundle.
func header(name string, size int64) ([]byte, error) {
	var b bytes.Buffer
	err := tar.NewWriter(&b).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR})
	return b.Bytes(), err
}

// padding is how many zeroes follow a member.
func padding(size int64) int64 { return -size & (block - 1) }
