package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// migrations are scripts; the one at i takes a database from version i to version
// i+1. Released ones never change.
//
// The tables are those of package sqlite, and mean the same: bundles are zstd frames
// of 256 entries, what is behind the last one stands in head, and of tiles of level 0
// only complete ones are in tile. Beside them stands the lease.
var migrations = [...]string{`
CREATE TABLE lease (
	id     integer PRIMARY KEY CHECK (id = 0),
	epoch  bigint NOT NULL, -- number of the lease
	holder text NOT NULL,   -- application_name of its connections
	url    text NOT NULL    -- where it takes submissions; may be empty
);
INSERT INTO lease VALUES (0, 0, '', '');
CREATE TABLE alive ( -- apart from lease: every transaction of the writer locks that
	id      integer PRIMARY KEY CHECK (id = 0),
	expires timestamptz NOT NULL
);
INSERT INTO alive VALUES (0, '-infinity');
CREATE TABLE tree (
	id   integer PRIMARY KEY CHECK (id = 0),
	size bigint NOT NULL,
	root bytea NOT NULL CHECK (length(root) = 32)
) WITH (fillfactor = 10);
INSERT INTO tree VALUES (0, 0, decode(repeat('00', 32), 'hex'));
CREATE TABLE bundle (
	n    bigint PRIMARY KEY,
	data bytea NOT NULL
);
CREATE TABLE head (
	first  bigint PRIMARY KEY,
	data   bytea NOT NULL,
	leaves bytea NOT NULL
);
CREATE TABLE tile (
	id     bigint PRIMARY KEY, -- level << 56 | n
	hashes bytea NOT NULL
);
CREATE TABLE stream (
	id          bigserial PRIMARY KEY,
	producer    bytea NOT NULL CHECK (length(producer) = 32),
	incarnation bytea NOT NULL CHECK (length(incarnation) = 16),
	size        bigint NOT NULL,
	edge        bytea NOT NULL,
	UNIQUE (producer, incarnation)
) WITH (fillfactor = 50);
CREATE TABLE run (
	stream   bigint NOT NULL REFERENCES stream,
	sequence bigint NOT NULL,
	first    bigint NOT NULL,
	count    bigint NOT NULL,
	PRIMARY KEY (stream, sequence)
);
CREATE TABLE key_change (
	entry bigint PRIMARY KEY
);
CREATE TABLE checkpoint (
	kind text PRIMARY KEY CHECK (kind IN ('signed', 'published')),
	size bigint NOT NULL,
	root bytea NOT NULL CHECK (length(root) = 32),
	note bytea NOT NULL
) WITH (fillfactor = 10);
CREATE TABLE fork (
	id           bigserial PRIMARY KEY,
	producer     bytea NOT NULL,
	incarnation  bytea NOT NULL,
	sequence     bigint NOT NULL,
	entry_index  bigint NOT NULL,
	entry        bytea NOT NULL,
	entry_sha256 bytea NOT NULL,
	seal         bytea NOT NULL,
	seen         bigint NOT NULL, -- nanoseconds since 1970
	UNIQUE (producer, incarnation, sequence, entry_sha256)
);
CREATE TABLE pruned (
	id      integer PRIMARY KEY CHECK (id = 0),
	minimum bigint NOT NULL,
	at      bytea NOT NULL,
	old     bytea
);
CREATE TABLE pruned_stream (
	stream bigint PRIMARY KEY REFERENCES stream,
	size   bigint NOT NULL,
	edge   bytea NOT NULL
);
CREATE TABLE mark (
	size bigint PRIMARY KEY,
	time bigint NOT NULL, -- seconds since 1970
	note bytea NOT NULL
);
CREATE INDEX mark_time ON mark (time);
CREATE TABLE opening (
	entry bigint PRIMARY KEY,
	leaf  bytea NOT NULL,
	box   bytea
);
CREATE TABLE wrapped_key (
	id      bytea PRIMARY KEY CHECK (length(id) = 16),
	wrapped bytea,
	last    bigint NOT NULL DEFAULT 0
);
-- Hashes and frames do not get smaller by compression.
ALTER TABLE bundle ALTER data SET STORAGE EXTERNAL;
ALTER TABLE tile ALTER hashes SET STORAGE EXTERNAL;
ALTER TABLE head ALTER data SET STORAGE EXTERNAL;
ALTER TABLE head ALTER leaves SET STORAGE EXTERNAL;
-- These are written often and stay small.
ALTER TABLE head SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
ALTER TABLE tree SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
ALTER TABLE checkpoint SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE FUNCTION fence(e bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM 1 FROM lease WHERE id = 0 AND epoch = e AND e > 0 FOR SHARE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'the lease is no longer held' USING ERRCODE = 'SL001';
	END IF;
END $$;
CREATE FUNCTION advance(first bigint, n bigint, r bytea) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	have bigint;
BEGIN
	UPDATE tree SET size = first + n, root = r WHERE id = 0 AND size = first;
	IF NOT FOUND THEN
		SELECT size INTO have FROM tree;
		RAISE EXCEPTION 'the log has % entries', have USING ERRCODE = 'SL002';
	END IF;
END $$;
`}

// migrationLock is what servers that start at the same time wait for in turn.
const migrationLock = 0x53544c01

// migrate makes the schema or brings it up to date.
func (db *DB) migrate(ctx context.Context) error {
	tx, err := db.writer.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, migrationLock); err != nil {
		return err
	}
	version, err := schemaVersion(ctx, tx)
	if err != nil {
		return err
	}
	switch {
	case version == len(migrations):
		return tx.Commit(ctx)
	case version > len(migrations):
		return fmt.Errorf("%w: it has schema version %d, this program knows %d; upgrade sealtap", ErrNewer, version, len(migrations))
	}
	for i, script := range migrations[version:] {
		if _, err := tx.Exec(ctx, script); err != nil {
			return fmt.Errorf("migrating to version %d: %w", version+i+1, err)
		}
	}
	if _, err := tx.Exec(ctx, `UPDATE sealtap_schema SET version = $1`, len(migrations)); err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	return tx.Commit(ctx)
}

// schemaVersion returns the version of the schema that the database has, which it
// makes if there is none, in version 0.
func schemaVersion(ctx context.Context, tx pgx.Tx) (version int, err error) {
	var schema, table bool
	err = tx.QueryRow(ctx, `SELECT to_regnamespace('sealtap') IS NOT NULL, to_regclass('sealtap.sealtap_schema') IS NOT NULL`).Scan(&schema, &table)
	if err != nil {
		return 0, err
	}
	switch {
	case !schema:
		_, err = tx.Exec(ctx, `CREATE SCHEMA sealtap; CREATE TABLE sealtap_schema (version integer NOT NULL); INSERT INTO sealtap_schema VALUES (0)`)
		return 0, err
	case !table:
		return 0, fmt.Errorf("%w: it has a schema sealtap that is not ours; take another database", ErrForeign)
	}
	err = tx.QueryRow(ctx, `SELECT version FROM sealtap_schema`).Scan(&version)
	if errors.Is(err, pgx.ErrNoRows) || version < 0 {
		err = fmt.Errorf("%w: its schema has no version", ErrForeign)
	}
	return version, err
}
