package spool

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestLessRoom: a spool that may hold less than one file of its former life has
// room again as soon as the log has what is in that.
func TestLessRoom(t *testing.T) {
	key := testKey(t)
	l := newLog(t, key.Public)
	cfg := testConfig(t, t.TempDir(), key)
	cfg.Log, cfg.SegmentSize, cfg.MaxBytes = l.client, 16<<20, 256<<20
	s := openSpool(t, cfg)
	write(t, s, 10)
	closeSpool(t, s)
	cfg.SegmentSize, cfg.MaxBytes = 0, 4<<20
	s = openSpool(t, cfg)
	defer closeSpool(t, s)
	begun := time.Now()
	go func() { _ = s.Run(t.Context()) }()
	eventually(t, "room", func() bool { t.Log(s.Status(), time.Since(begun)); time.Sleep(200*time.Millisecond); return s.Record(context.Background(), request(1), nil) == nil })
	_ = errors.Is
}
