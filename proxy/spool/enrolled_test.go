package spool

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
)

// runs runs a spool until the function that it returns is called.
func runs(t *testing.T, s *Spool) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestRevoked: with a key that the operator has ended no exchange begins, those
// under way end, and one clear message says what to do. The same holds after a
// restart.
func TestRevoked(t *testing.T) {
	key := testKey(t)
	l := newLog(t, key.Public)
	cfg := testConfig(t, t.TempDir(), key)
	logged := new(said)
	cfg.Log, cfg.Heartbeat, cfg.Logger = l.client, 100*time.Millisecond, logged.logger()
	ctx := context.Background()
	s := openSpool(t, cfg)
	stop := runs(t, s)
	write(t, s, 5)
	eventually(t, "confirmed", func() bool { return s.Status().Confirmed >= 10 })
	if err := s.Record(ctx, request(9), nil); err != nil || s.Ready() != nil {
		t.Fatal(err, s.Ready())
	}
	l.change(t, record.KeyChange{Revoke: []record.Revocation{{Key: key.Public}}})
	eventually(t, "not ready", func() bool { return s.Ready() != nil })
	if err := s.Record(ctx, request(10), nil); !errors.Is(err, ErrEnded) || !errors.Is(s.Ready(), ErrEnded) {
		t.Errorf("an exchange begins: %v; ready: %v", err, s.Ready())
	}
	if err := s.Record(ctx, response(9), nil); err != nil || s.Err() != nil {
		t.Errorf("an exchange under way cannot end: %v, %v", err, s.Err())
	}
	time.Sleep(3 * cfg.Heartbeat)
	if logged.lines("level=ERROR") != 1 || logged.lines("sealtap enrol NEW.pub --replaces OLD.pub", "revoked producer") != 1 || logged.lines("they wait in the spool") != 0 {
		t.Errorf("said: %s", &logged.buf)
	}
	stop()
	closeSpool(t, s)
	s = openSpool(t, cfg)
	stop = runs(t, s)
	eventually(t, "not ready after a restart", func() bool { return errors.Is(s.Ready(), ErrEnded) })
	stop()
	closeSpool(t, s)
	// A new key, with a spool of its own.
	cfg.Key, cfg.Dir = testKey(t), t.TempDir()
	l.change(t, record.KeyChange{Enrol: []keys.Public{cfg.Key.Public}})
	s = openSpool(t, cfg)
	defer closeSpool(t, s)
	stop = runs(t, s)
	defer stop()
	write(t, s, 5)
	eventually(t, "confirmed with a new key", func() bool { return s.Status().Confirmed >= 10 })
	if s.Ready() != nil {
		t.Error(s.Ready())
	}
}

// TestNotEnrolledYet: a proxy can be started before its key is enrolled. Its records
// wait.
func TestNotEnrolledYet(t *testing.T) {
	key := testKey(t)
	l := newLog(t, keys.Public{})
	cfg := testConfig(t, t.TempDir(), key)
	logged := new(said)
	cfg.Log, cfg.Logger = l.client, logged.logger()
	s := openSpool(t, cfg)
	for range 2 {
		write(t, s, 5)
		err := submitAll(s)
		if p := (*client.Problem)(nil); !errors.As(err, &p) || !p.Unknown || p.Revoked || s.Ready() != nil {
			t.Fatalf("%v; ready: %v", err, s.Ready())
		}
		closeSpool(t, s) // and it may be restarted meanwhile
		s = openSpool(t, cfg)
	}
	defer closeSpool(t, s)
	l.change(t, record.KeyChange{Enrol: []keys.Public{key.Public}})
	write(t, s, 5)
	confirmed(t, s)
	if st := s.Status(); st.Confirmed < 30 || logged.lines("level=ERROR") > 0 {
		t.Errorf("status %+v, said: %s", st, &logged.buf)
	}
}

// TestNoLongerKnown: a log that has taken records of a producer, and then knows no
// such producer, is the wrong one, or has lost them. Once the right one answers,
// exchanges begin again.
func TestNoLongerKnown(t *testing.T) {
	key := testKey(t)
	l := newLog(t, key.Public)
	wrong := newLog(t, keys.Public{}).Handler()
	cfg := testConfig(t, t.TempDir(), key)
	cfg.Log = l.client
	s := openSpool(t, cfg)
	write(t, s, 5)
	confirmed(t, s)
	for _, restart := range []bool{false, true} {
		if restart { // it is known from the file
			closeSpool(t, s)
			s = openSpool(t, cfg)
		}
		l.before.Store(func(w http.ResponseWriter, r *http.Request) bool {
			wrong.ServeHTTP(w, r)
			return true
		})
		write(t, s, 1)
		if err := submitAll(s); !errors.Is(err, ErrEnded) {
			t.Fatal(err)
		}
		if err := s.Record(context.Background(), request(1), nil); !errors.Is(err, ErrEnded) {
			t.Errorf("an exchange begins: %v", err)
		}
		l.before.Store(func(http.ResponseWriter, *http.Request) bool { return false })
		confirmed(t, s)
		write(t, s, 1)
		confirmed(t, s)
	}
	closeSpool(t, s)
}
