package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/witness"
)

// benchLog is the number of a log that witnesses are asked about. Its key follows
// from the number, so that every process knows it.
type benchLog int

func (n benchLog) origin() string { return fmt.Sprintf("log.example/%d", int(n)) }

func (n benchLog) key() ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("benchmark " + n.origin()))
	return ed25519.NewKeyFromSeed(seed[:])
}

// vkey is the verifier key of the log (C2SP signed-note, "Verifier keys").
func (n benchLog) vkey() (string, error) {
	return note.NewEd25519VerifierKey(n.origin(), n.key().Public().(ed25519.PublicKey))
}

// signer signs as the log.
func (n benchLog) signer() (note.Signer, error) {
	text := append([]byte{1}, n.key().Seed()...) // 1 is Ed25519
	public := append([]byte{1}, n.key().Public().(ed25519.PublicKey)...)
	h := sha256.Sum256(append([]byte(n.origin()+"\n"), public...))
	return note.NewSigner(fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", n.origin(), binary.BigEndian.Uint32(h[:]), base64.StdEncoding.EncodeToString(text)))
}

// cosignSpec asks a witness for the cosignatures of heads, of each log one after
// the other, of all logs at once.
type cosignSpec struct {
	Addr string
	Logs int
	From uint64 // the size that the witness has of each log
	Each uint64 // heads of each log
}

type cosignResult struct {
	Heads   int
	Seconds float64
}

func (r cosignResult) rate() float64 { return float64(r.Heads) / r.Seconds }

// cosign makes all requests beforehand, and then sends them from a connection for
// each log.
func cosign(s cosignSpec) (cosignResult, error) {
	requests := make([][][]byte, s.Logs)
	for i := range requests {
		var err error
		if requests[i], err = s.requests(benchLog(i)); err != nil {
			return cosignResult{}, err
		}
	}
	conns := make([]net.Conn, s.Logs)
	for i := range conns {
		c, err := net.Dial("tcp", s.Addr)
		if err != nil {
			return cosignResult{}, err
		}
		defer c.Close()
		conns[i] = c
	}
	begin := time.Now()
	_, err := together(s.Logs, func(i int) ([]time.Duration, error) {
		r := bufio.NewReader(conns[i])
		for n, request := range requests[i] {
			if _, err := conns[i].Write(request); err != nil {
				return nil, err
			}
			if err := readAnswer(r); err != nil {
				return nil, fmt.Errorf("head %d of log %d: %w", n, i, err)
			}
		}
		return nil, nil
	})
	return cosignResult{s.Logs * int(s.Each), time.Since(begin).Seconds()}, err
}

// requests are the add-checkpoints of one log, each of one entry more.
func (s cosignSpec) requests(n benchLog) ([][]byte, error) {
	signer, err := n.signer()
	if err != nil {
		return nil, err
	}
	tree := testonly.New(rfc6962.DefaultHasher)
	for i := range s.From + s.Each {
		tree.AppendData(fmt.Appendf(nil, "entry %d of %s", i, n.origin()))
	}
	var list [][]byte
	for old := s.From; old < s.From+s.Each; old++ {
		var body bytes.Buffer
		fmt.Fprintf(&body, "old %d\n", old)
		if old > 0 {
			proof, err := tree.ConsistencyProof(old, old+1)
			if err != nil {
				return nil, err
			}
			for _, h := range proof {
				body.WriteString(base64.StdEncoding.EncodeToString(h) + "\n")
			}
		}
		head := checkpoint.Body{Origin: n.origin(), Size: old + 1, Root: [32]byte(tree.HashAt(old + 1))}
		signed, err := note.Sign(&note.Note{Text: string(head.Marshal())}, signer)
		if err != nil {
			return nil, err
		}
		body.WriteString("\n")
		body.Write(signed)
		list = append(list, fmt.Appendf(nil, "POST /add-checkpoint HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", s.Addr, body.Len(), body.Bytes()))
	}
	return list, nil
}

// witnessSpec is what our witness is run with.
type witnessSpec struct {
	Dir  string
	Logs int
}

// serveWitness is our witness as sealtap witness runs it, but with no bound on what
// one log may ask.
func serveWitness(ln net.Listener, arg string) error {
	var s witnessSpec
	if err := json.Unmarshal([]byte(arg), &s); err != nil {
		return err
	}
	key, err := keys.Generate("witness.example/bench", keys.Cosignature)
	if err != nil {
		return err
	}
	logs := make(map[string][]keys.Public)
	for i := range s.Logs {
		text, err := benchLog(i).vkey()
		if err != nil {
			return err
		}
		k, err := keys.ParsePublic(text)
		if err != nil {
			return err
		}
		logs[k.Name] = []keys.Public{k}
	}
	ctx := context.Background()
	store, err := sqlite.OpenWitness(ctx, filepath.Join(s.Dir, "witness.db"))
	if err != nil {
		return err
	}
	w, err := witness.New(ctx, witness.Config{Key: key, Logs: logs, Store: store, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	return w.Serve(ctx, ln)
}
