package tlog

import (
	"encoding/base64"
	"encoding/json"
	"strconv"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/tiles"
	"github.com/sealtap/sealtap/witness/policy"
)

// Proofs are asked for by the thousands, and what they hold needs no escaping: they
// are written here, without reflection.

// appendInclusion appends the members of an inclusion proof.
func appendInclusion(b []byte, p tiles.Inclusion) []byte {
	b = strconv.AppendUint(append(b, `"index":`...), p.Index, 10)
	b = appendHash(append(b, `,"leaf_hash":`...), p.Leaf)
	return appendHashes(append(b, ','), p.Path)
}

func appendHashes(b []byte, list []record.Hash) []byte {
	b = append(b, `"hashes":[`...)
	for i, h := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendHash(b, h)
	}
	return append(b, ']')
}

func appendHash(b []byte, h record.Hash) []byte {
	return append(base64.StdEncoding.AppendEncode(append(b, '"'), h[:]), '"')
}

func appendSize(b []byte, size uint64) []byte {
	return strconv.AppendUint(append(b, `"size":`...), size, 10)
}

// noteText is the note of a checkpoint as a JSON string.
type noteText struct {
	cp   *policy.Checkpoint
	json []byte
}

// noteJSON returns the note of the published checkpoint as a JSON string.
func (l *Log) noteJSON(cp *policy.Checkpoint) []byte {
	if t := l.note.Load(); t != nil && t.cp == cp {
		return t.json
	}
	text, err := json.Marshal(string(cp.Note))
	if err != nil { // not for a string
		return []byte(`""`)
	}
	l.note.Store(&noteText{cp, text})
	return text
}
