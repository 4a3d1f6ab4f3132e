package spool

import (
	"context"
	"errors"
	"testing"
)

// TestLessRoom: a spool that may hold less than one file of its former life has
// room again as soon as the log has what is in that.
func TestLessRoom(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"nothing of it was sent":  func(c *Config) { c.Log = nil },
		"all of it was confirmed": func(*Config) {},
	} {
		t.Run(name, func(t *testing.T) {
			key := testKey(t)
			l := newLog(t, key.Public)
			cfg := testConfig(t, t.TempDir(), key)
			cfg.Log, cfg.SegmentSize, cfg.MaxBytes = l.client, 16<<20, 256<<20
			former := cfg
			change(&former)
			s := openSpool(t, former)
			write(t, s, 10)
			closeSpool(t, s)
			cfg.SegmentSize, cfg.MaxBytes = 0, 4<<20
			s = openSpool(t, cfg)
			if err := s.Room(); !errors.Is(err, ErrFull) {
				t.Errorf("with a file that is larger than all may be: %v", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ran := make(chan error, 1)
			go func() { ran <- s.Run(ctx) }()
			defer func() {
				cancel()
				if err := <-ran; err != nil {
					t.Error(err)
				}
				closeSpool(t, s)
			}()
			eventually(t, "room", func() bool { return s.Room() == nil })
			if err := s.Record(context.Background(), request(1), nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRoom: there is no room from where on no exchange can begin, though those
// under way can end.
func TestRoom(t *testing.T) {
	cfg := testConfig(t, t.TempDir(), testKey(t))
	cfg.MaxBytes = 4 * cfg.SegmentSize
	s := openSpool(t, cfg)
	defer closeSpool(t, s)
	for id := byte(0); ; id++ {
		room := s.Room()
		err := s.Record(context.Background(), request(id), nil)
		if (room == nil) != (err == nil) {
			t.Fatalf("room: %v, recording: %v", room, err)
		}
		if err != nil {
			if !errors.Is(room, ErrFull) {
				t.Error(room)
			}
			break
		}
	}
	if err := s.Record(context.Background(), response(0), nil); err != nil {
		t.Error(err)
	}
}
