package main

import (
	"context"
	"database/sql"
	"errors"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// What somebody with root on the log's machine can do to its files. The demo and
// the tests do it to copies, to show that it is found.

// alterEntry rewrites one stored entry in the database of a log, as an editor
// with the file open would: no hash, tile or signature is touched.
func alterEntry(ctx context.Context, path string, index uint64, edit func(entry []byte)) error {
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		return err
	}
	defer db.Close()
	var data []byte
	n := index / storage.BundleWidth
	err = db.QueryRowContext(ctx, `SELECT data FROM bundle WHERE n = ?`, int64(n)).Scan(&data)
	if errors.Is(err, sql.ErrNoRows) {
		var first uint64
		err = db.QueryRowContext(ctx, `SELECT first, data FROM head WHERE first <= ? ORDER BY first DESC LIMIT 1`, int64(index)).Scan(&first, &data)
		if err == nil {
			err = alterIn(data, int(index-first), edit)
		}
		if err == nil {
			_, err = db.ExecContext(ctx, `UPDATE head SET data = ? WHERE first = ?`, data, int64(first))
		}
		return err
	} else if err != nil {
		return err
	}
	if data, err = alterPacked(data, int(index%storage.BundleWidth), edit); err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, `UPDATE bundle SET data = ? WHERE n = ?`, data, int64(n))
	return err
}

// alterIn edits entry number i of a bundle.
func alterIn(bundle []byte, i int, edit func(entry []byte)) error {
	for entry, err := range storage.Entries(bundle) {
		if err != nil {
			return err
		}
		if i == 0 {
			edit(entry)
			return nil
		}
		i--
	}
	return errors.New("the entry is not stored")
}

// alterPacked edits entry number i of a bundle that is a zstd frame.
func alterPacked(frame []byte, i int, edit func(entry []byte)) ([]byte, error) {
	decoder, err := zstd.NewReader(nil)
	if err != nil {
		return nil, err
	}
	defer decoder.Close()
	bundle, err := decoder.DecodeAll(frame, nil)
	if err == nil {
		err = alterIn(bundle, i, edit)
	}
	if err != nil {
		return nil, err
	}
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		return nil, err
	}
	defer encoder.Close()
	return encoder.EncodeAll(bundle, nil), nil
}

// dropEntry copies the database of a log to a new file without one entry, with
// the tree rebuilt and the head signed by the log's own key: all that the log's
// operator can do alone.
func dropEntry(ctx context.Context, from, to string, index uint64, key *keys.Private) error {
	src, err := sqlite.OpenLogFile(ctx, from)
	if err != nil {
		return err
	}
	defer src.Close()
	batch, head, err := without(ctx, src, index, key)
	if err != nil {
		return err
	}
	return writeLog(ctx, to, batch, head)
}

// bundles is a log whose entries can be read.
type bundles interface {
	Checkpoint(ctx context.Context) ([]byte, error)
	Bundle(ctx context.Context, n uint64, width int) ([]byte, error)
}

// without makes a log of the entries of another one but one, and signs its head.
func without(ctx context.Context, src bundles, index uint64, key *keys.Private) (*storage.Batch, storage.Head, error) {
	none := storage.Head{}
	old, err := src.Checkpoint(ctx)
	if err != nil {
		return nil, none, err
	}
	text, err := checkpoint.Text(old)
	if err != nil {
		return nil, none, err
	}
	head, _, err := checkpoint.Parse(text)
	if err != nil {
		return nil, none, err
	}
	batch := &storage.Batch{KeyChanges: []uint64{0}}
	tree := tiles.NewWriter()
	for n := uint64(0); n*storage.BundleWidth < head.Size; n++ {
		bundle, err := src.Bundle(ctx, n, int(min(storage.BundleWidth, head.Size-n*storage.BundleWidth)))
		if err != nil {
			return nil, none, err
		}
		i := n * storage.BundleWidth
		for entry, err := range storage.Entries(bundle) {
			if err != nil {
				return nil, none, err
			}
			if i != index {
				batch.Entries = append(batch.Entries, entry)
				tree.Append(record.LeafHash(entry))
			}
			i++
		}
	}
	for _, t := range append(tree.Complete(), tree.Partial()...) {
		batch.Tiles = append(batch.Tiles, storage.Tile(t))
	}
	batch.Root = tree.Root()
	signer, err := key.Signer()
	if err != nil {
		return nil, none, err
	}
	body := checkpoint.Body{Origin: head.Origin, Size: tree.Size(), Root: tree.Root()}
	signed, err := note.Sign(&note.Note{Text: string(body.Marshal())}, signer)
	if err != nil {
		return nil, none, err
	}
	return batch, storage.Head{Size: body.Size, Root: body.Root, Note: signed}, nil
}

func writeLog(ctx context.Context, path string, b *storage.Batch, head storage.Head) (err error) {
	dst, err := sqlite.OpenLog(ctx, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if err := dst.Commit(ctx, b); err != nil {
		return err
	}
	if err := dst.SetSigned(ctx, head); err != nil {
		return err
	}
	return dst.SetPublished(ctx, head)
}
