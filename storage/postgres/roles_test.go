package postgres_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sealtap/sealtap/storage/postgres"
	"github.com/sealtap/sealtap/storage/postgres/pgtest"
)

// A server that uses another role than the one whose lease it takes over does not see that
// one's connections: what was paused ends by itself. Where it sees them and may not end
// them, it says what is wrong.
func TestTwoRoles(t *testing.T) {
	server := pgtest.Start(t)
	url := server.Database(t)
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	one := open(t, url)
	defer one.Close()
	if _, err := conn.Exec(ctx, `CREATE ROLE second LOGIN; GRANT USAGE ON SCHEMA sealtap TO second;
		GRANT ALL ON ALL TABLES IN SCHEMA sealtap TO second; GRANT ALL ON ALL SEQUENCES IN SCHEMA sealtap TO second`); err != nil {
		t.Fatal(err)
	}
	two := open(t, strings.Replace(url, "user=sealtap", "user=second", 1))
	defer two.Close()
	paused := acquire(t, one)
	began, woken, changed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		changed <- one.Change(ctx, func(tx pgx.Tx) error {
			close(began)
			<-woken
			_, err := tx.Exec(ctx, `UPDATE tree SET size = 77`)
			return err
		})
	}()
	<-began
	paused.Pause()
	lease := acquire(t, two)
	close(woken)
	if err := <-changed; !errors.Is(err, postgres.ErrNotWriter) {
		t.Errorf("the change of the one that was paused: %v", err)
	}
	release(t, lease)

	// One that sees the other's connections, and may not end them.
	if _, err := conn.Exec(ctx, `GRANT pg_read_all_stats TO second`); err != nil {
		t.Fatal(err)
	}
	release(t, acquire(t, one))
	_, err = two.Acquire(ctx, "")
	for errors.Is(err, postgres.ErrAway) { // its own were ended
		_, err = two.Acquire(ctx, "")
	}
	if err == nil || !strings.Contains(err.Error(), "all log servers use one role") {
		t.Errorf("a lease from a server whose connections cannot be ended: %v", err)
	}
}
