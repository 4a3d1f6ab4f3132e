package spool

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sealtap/sealtap/keys"
)

// TestKill kills a process that writes records, again and again, and checks
// that what it was told is durable is there, once.
func TestKill(t *testing.T) {
	if dir := os.Getenv("SEALTAP_SPOOL_VICTIM"); dir != "" {
		victim(dir)
	}
	dir := t.TempDir()
	key := testKey(t)
	if err := key.Save(filepath.Join(dir, "key")); err != nil {
		t.Fatal(err)
	}
	rounds := 10
	if testing.Short() {
		rounds = 3
	}
	acked := make(map[string]bool)
	for round := range rounds {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "SEALTAP_SPOOL_VICTIM="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			acked[lines.Text()] = true
			if n == 200+37*round {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
	}
	seen := make(map[string]int)
	for _, l := range readBack(t, filepath.Join(dir, "spool"), key) {
		for _, r := range l.records {
			seen[fmt.Sprintf("%s/%d", l.stream.Incarnation, r.GetSequence())]++
		}
	}
	for k := range acked {
		if seen[k] != 1 {
			t.Errorf("record %s was acknowledged and is there %d times", k, seen[k])
		}
	}
	if len(acked) < 200*rounds {
		t.Errorf("only %d records were acknowledged", len(acked))
	}
}

func victim(dir string) {
	key, err := keys.Load(filepath.Join(dir, "key"))
	var s *Spool
	if err == nil {
		s, err = Open(Config{Dir: filepath.Join(dir, "spool"), Key: key, SegmentSize: 256 << 10})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go s.Run(context.Background())
	var mu sync.Mutex
	for w := range 8 {
		go func() {
			for {
				r := request(byte(w))
				if err := s.Record(context.Background(), r, nil); err != nil {
					os.Exit(1)
				}
				mu.Lock()
				fmt.Printf("%x/%d\n", r.GetIncarnation(), r.GetSequence())
				mu.Unlock()
			}
		}()
	}
	time.Sleep(time.Minute)
	os.Exit(0)
}
