package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/trillian/storage/storagepb"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/postgres"
	"github.com/sealtap/sealtap/tlog/client"
)

// tamperCluster does what somebody can who has the password of a database.
//
//	flip URL INDEX     flips a bit of a stored entry
//	tile URL           blanks tiles
//	box URL            flips a bit of the first opening
//	drop LOG URL INDEX KEY FILE
//	                   takes the log at LOG, less one entry, into an empty database, signed with the
//	                   log's key, and puts the signed head into FILE
//	leaf URL           in Trillian's database: alters a leaf that is not integrated yet
//	root URL           there: alters the newest root
//	nodes URL          there: alters the nodes of the tree
func tamperCluster(ctx context.Context, args []string) error {
	if args[0] == "drop" {
		index, err := strconv.ParseUint(args[3], 10, 64)
		if err != nil {
			return err
		}
		return dropFromCluster(ctx, args[1], args[2], index, args[4], args[5])
	}
	db, err := pgx.Connect(ctx, args[1])
	if err != nil {
		return err
	}
	defer func() { _ = db.Close(ctx) }()
	switch args[0] {
	case "flip":
		index, err := strconv.ParseUint(args[2], 10, 63)
		if err != nil {
			return err
		}
		return flipInPostgres(ctx, db, index)
	case "tile":
		return affects(ctx, db, `UPDATE sealtap.tile SET hashes = decode(repeat('00', length(hashes)), 'hex') WHERE id > 1`)
	case "box":
		return affects(ctx, db, `UPDATE sealtap.opening SET box = set_byte(box, length(box) - 1, get_byte(box, length(box) - 1) # 1)
			WHERE entry = (SELECT min(entry) FROM sealtap.opening)`)
	case "leaf":
		return alterLeaf(ctx, db)
	case "root":
		return affects(ctx, db, `UPDATE treehead SET roothash = set_byte(roothash, 0, get_byte(roothash, 0) # 1)
			WHERE treeheadtimestamp = (SELECT max(treeheadtimestamp) FROM treehead)`)
	case "nodes":
		return alterNodes(ctx, db)
	}
	return fmt.Errorf("tamper cluster %s is not known", args[0])
}

// affects executes what has to change something.
func affects(ctx context.Context, db *pgx.Conn, statement string, args ...any) error {
	tag, err := db.Exec(ctx, statement, args...)
	if err == nil && tag.RowsAffected() == 0 {
		err = errors.New("nothing was changed")
	}
	return err
}

func flipInPostgres(ctx context.Context, db *pgx.Conn, index uint64) error {
	flip := func(entry []byte) { entry[len(entry)/2] ^= 1 }
	n := int64(index / storage.BundleWidth)
	var data []byte
	err := db.QueryRow(ctx, `SELECT data FROM sealtap.bundle WHERE n = $1`, n).Scan(&data)
	if err == nil {
		if data, err = alterPacked(data, int(index%storage.BundleWidth), flip); err != nil {
			return err
		}
		return affects(ctx, db, `UPDATE sealtap.bundle SET data = $2 WHERE n = $1`, n, data)
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	var first int64
	err = db.QueryRow(ctx, `SELECT first, data FROM sealtap.head WHERE first <= $1 ORDER BY first DESC LIMIT 1`, int64(index)).Scan(&first, &data)
	if err == nil {
		err = alterIn(data, int(int64(index)-first), flip)
	}
	if err != nil {
		return err
	}
	return affects(ctx, db, `UPDATE sealtap.head SET data = $2 WHERE first = $1`, first, data)
}

// dropFromCluster writes what the operator of a log can make of it alone.
func dropFromCluster(ctx context.Context, log, url string, index uint64, keyFile, file string) (err error) {
	key, err := loadKey("key", keyFile, keys.Ed25519)
	if err != nil {
		return err
	}
	src, err := client.Open(log)
	if err != nil {
		return err
	}
	batch, head, err := without(ctx, src, index, key)
	if err != nil {
		return err
	}
	db, err := postgres.Open(ctx, postgres.Config{URL: url})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	lease, err := db.Acquire(ctx, "")
	if err != nil {
		return err
	}
	dst, err := db.Log(file)
	if err != nil {
		return err
	}
	return errors.Join(dst.Commit(ctx, batch), dst.SetSigned(ctx, head), dst.SetPublished(ctx, head), lease.Release(ctx), dst.Close())
}

// alterLeaf waits for a leaf that Trillian's signer has not got yet.
func alterLeaf(ctx context.Context, db *pgx.Conn) error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := affects(ctx, db, `UPDATE sequencedleafdata SET merkleleafhash = set_byte(merkleleafhash, 0, get_byte(merkleleafhash, 0) # 1)
			WHERE sequencenumber = (SELECT min(sequencenumber) FROM sequencedleafdata WHERE sequencenumber >= (SELECT max(treesize) FROM treehead))`)
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

func alterNodes(ctx context.Context, db *pgx.Conn) error {
	rows, err := db.Query(ctx, `SELECT subtreeid, nodes FROM subtree`)
	if err != nil {
		return err
	}
	changed := make(map[string][]byte)
	var id, nodes []byte
	if _, err := pgx.ForEachRow(rows, []any{&id, &nodes}, func() error {
		var subtree storagepb.SubtreeProto
		if err := proto.Unmarshal(nodes, &subtree); err != nil {
			return err
		}
		for _, hash := range subtree.Leaves {
			hash[0] ^= 1
		}
		var err error
		changed[string(id)], err = proto.Marshal(&subtree)
		return err
	}); err != nil {
		return err
	}
	for id, nodes := range changed {
		if err := affects(ctx, db, `UPDATE subtree SET nodes = $2 WHERE subtreeid = $1`, []byte(id), nodes); err != nil {
			return err
		}
	}
	return nil
}
