package witness_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	flog "github.com/transparency-dev/formats/log"
	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness"
)

const origin = "log.example/behind-the-sofa"

// TestStatus goes through the text of tlog-witness, "add-checkpoint", with a
// witness that is at size 7.
func TestStatus(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	fork := newLog(t, l.key, "b", 20)
	stranger := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	unknown := newLog(t, newKey(t, "log.example/other", keys.Ed25519), "a", 20)
	hash := "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
	many := strings.Split(strings.Repeat(hash+" ", 64), " ")
	cp9, good := l.checkpoint(t, 9), l.request(t, 7, 9)
	badEmpty := l.sign(t, string(checkpoint.Body{Origin: origin}.Marshal()))

	for name, test := range map[string]struct {
		body   string
		status int
	}{
		"larger":                          {good, 200},
		"the same again":                  {l.request(t, 7, 7), 200},
		"extension lines":                 {body("7", nil, l.sign(t, string(l.body(7).Marshal())+"extension\n")), 200},
		"signatures by others":            {body("7", nil, append(l.checkpoint(t, 7), "— somebody.example AAAAAAAAAAAA\n"...)), 200},
		"another's key of the same name":  {body("7", nil, l.sign(t, string(l.body(7).Marshal()), stranger.signer)), 200},
		"nothing":                         {"", 400},
		"no old line":                     {string(cp9), 400},
		"old without size":                {body("", nil, cp9), 400},
		"old with leading zero":           {body("07", nil, cp9), 400},
		"old with two spaces":             {body(" 7", nil, cp9), 400},
		"old with carriage return":        {body("7\r", nil, cp9), 400},
		"old negative":                    {body("-7", nil, cp9), 400},
		"old in capitals":                 {"OLD" + good[3:], 400},
		"old of 2^64":                     {body("18446744073709551616", nil, cp9), 400},
		"old above the checkpoint's size": {body("10", nil, cp9), 400},
		"proof line too short":            {body("7", []string{hash[:43]}, cp9), 400},
		"proof line of 31 bytes":          {body("7", []string{"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxqw=="}, cp9), 400},
		"proof line with unused bits":     {body("7", []string{hash[:42] + "J="}, cp9), 400},
		"proof line with blank":           {body("7", []string{hash + " "}, cp9), 400},
		"64 proof lines":                  {body("7", many[:64], cp9), 400},
		"63 proof lines":                  {body("7", many[:63], cp9), 422},
		"no empty line":                   {strings.Replace(good, "\n\n", "\n", 1), 400},
		"checkpoint cut off":              {good[:len(good)-1], 400},
		"checkpoint without signature":    {body("7", nil, l.body(9).Marshal()), 400},
		"size with leading zero":          {body("7", nil, l.sign(t, strings.Replace(string(l.body(9).Marshal()), "\n9\n", "\n09\n", 1))), 400},
		"unknown origin":                  {unknown.request(t, 0, 9), 404},
		"unknown origin, size 0":          {unknown.request(t, 0, 0), 404},
		"signed by another key":           {stranger.request(t, 7, 9), 403},
		"damaged signature":               {body("7", nil, damage(cp9)), 403},
		"damaged, after another's":        {body("7", nil, append(stranger.checkpoint(t, 9), strings.SplitAfter(string(damage(cp9)), "\n\n")[1]...)), 403},
		"old size 0 of a known log":       {l.request(t, 0, 9), 409},
		"old size too small":              {l.request(t, 5, 9), 409},
		"old size too large":              {l.request(t, 8, 9), 409},
		"smaller checkpoint":              {l.request(t, 5, 5), 409},
		"empty checkpoint":                {l.request(t, 0, 0), 409},
		"wrong empty root, old size":      {body("0", nil, badEmpty), 409},
		"no proof":                        {body("7", nil, cp9), 422},
		"wrong proof":                     {body("7", []string{hash, hash, hash, hash}, cp9), 422},
		"proof for the same size":         {body("7", []string{hash}, l.checkpoint(t, 7)), 422},
		"another root for the same size":  {fork.request(t, 7, 7), 422},
		"another history":                 {fork.request(t, 7, 9), 422},
		"far too long":                    {body("7", nil, cp9) + strings.Repeat("x", 300<<10), 413},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, l)
			if a := s.add(t, l.request(t, 0, 7)); a.status != 200 {
				t.Fatalf("first checkpoint: %+v", a)
			}
			before := s.latest(t, origin)
			a := s.add(t, test.body)
			if a.status != test.status {
				t.Fatalf("answer is %+v, want %d", a, test.status)
			}
			if strings.Contains(a.body, "[") || strings.Count(a.body, "\n") > 1 {
				t.Errorf("answer is no line for people: %q", a.body)
			}
			switch a.status {
			case 200:
				if !strings.HasPrefix(a.body, "— witness.example/w ") || strings.Count(a.body, "\n") != 1 {
					t.Errorf("answer is %q", a.body)
				}
				return
			case 409:
				if a.body != "7\n" || a.contentType != "text/x.tlog.size" {
					t.Errorf("answer is %+v", a)
				}
			}
			if after := s.latest(t, origin); after != before {
				t.Errorf("after %d the latest checkpoint is %q", a.status, after.body)
			}
			if again := s.add(t, good); again.status != 200 {
				t.Errorf("after %d a good request is answered %+v", a.status, again)
			}
		})
	}
}

// A witness that knows nothing of a log.
func TestFirst(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	hash := "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
	badEmpty := l.sign(t, string(checkpoint.Body{Origin: origin}.Marshal()))
	for name, test := range map[string]struct {
		body   string
		status int
		forks  int
	}{
		"empty":            {l.request(t, 0, 0), 200, 0},
		"one":              {l.request(t, 0, 1), 200, 0},
		"with a proof":     {body("0", []string{hash}, l.checkpoint(t, 9)), 422, 0},
		"empty with proof": {body("0", []string{hash}, l.checkpoint(t, 0)), 422, 0},
		"wrong empty root": {body("0", nil, badEmpty), 422, 1},
		"old size":         {l.request(t, 3, 9), 409, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, l)
			if a := s.latest(t, origin); a.status != 404 {
				t.Errorf("latest of nothing is %+v", a)
			}
			a := s.add(t, test.body)
			if a.status != test.status || a.status == 409 && a.body != "0\n" {
				t.Fatalf("answer is %+v, want %d", a, test.status)
			}
			if a := s.latest(t, origin); (a.status == 200) != (test.status == 200) {
				t.Errorf("latest is %+v", a)
			}
			if forks, err := s.store.Forks(t.Context(), origin); err != nil || len(forks) != test.forks {
				t.Errorf("forks: %+v, %v", forks, err)
			}
		})
	}
}

func TestOtherRequests(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	s := newServer(t, l)
	s.add(t, l.request(t, 0, 7))
	for _, test := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/add-checkpoint", 405},
		{"PUT", "/add-checkpoint", 405},
		{"GET", "/" + witness.OriginHash(origin) + "/checkpoint", 200},
		{"GET", "/" + strings.ToUpper(witness.OriginHash(origin)) + "/checkpoint", 404},
		{"GET", "/" + witness.OriginHash("log.example/other") + "/checkpoint", 404},
		{"POST", "/" + witness.OriginHash(origin) + "/checkpoint", 405},
		{"GET", "/healthz", 200},
		{"GET", "/metrics", 200},
		{"GET", "/", 404},
	} {
		if a := do(t, test.method, s.http.URL+test.path, ""); a.status != test.status {
			t.Errorf("%s %s: %+v, want %d", test.method, test.path, a, test.status)
		}
	}
	if m := do(t, "GET", s.http.URL+"/metrics", "").body; !strings.Contains(m, `{result="advanced"} 1`) {
		t.Errorf("metrics:\n%s", m)
	}
}

// Our cosignature and the checkpoint for monitors, read by code that is not ours.
func TestReferenceReads(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	s := newServer(t, l)
	before := time.Now().Truncate(time.Second)
	signed := l.checkpoint(t, 7)
	line := s.add(t, body("0", nil, append(signed[:len(signed):len(signed)], "— junk.example AAAAAAAAAAAA\n"...))).body

	logV, err := note.NewVerifier(l.key.Public.String())
	if err != nil {
		t.Fatal(err)
	}
	cosigV, err := fnote.NewVerifierForCosignatureV1(s.key.Public.String())
	if err != nil {
		t.Fatal(err)
	}
	for name, cosigned := range map[string]string{"answer": string(signed) + line, "latest": s.latest(t, origin).body} {
		cp, _, n, err := flog.ParseCheckpoint([]byte(cosigned), origin, logV, cosigV)
		if err != nil || cp.Size != 7 || len(n.Sigs) != 2 || len(n.UnverifiedSigs) != 0 {
			t.Fatalf("%s: %+v, %v in\n%s", name, n, err, cosigned)
		}
		at, err := fnote.CoSigV1Timestamp(n.Sigs[1])
		if err != nil || at.Before(before) || at.After(time.Now()) {
			t.Errorf("%s: time %v, %v", name, at, err)
		}
	}
	if latest := s.latest(t, origin).body; latest != string(signed)+line {
		t.Errorf("latest is\n%s", latest)
	}
}

// Persist, then sign: without the one there is never the other.
func TestStoreFails(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	other := newLog(t, l.key, "b", 20)
	key := newKey(t, "witness.example/w", keys.Cosignature)
	path := filepath.Join(t.TempDir(), "w.db")
	db := openStore(t, path)
	store := &faultyStore{Store: db}
	s := startServer(t, key, store, l)
	s.add(t, l.request(t, 0, 7))
	before := s.latest(t, origin)

	store.set(true, false)
	if a := s.add(t, l.request(t, 7, 9)); a.status != 500 || strings.Contains(a.body, errStore.Error()) {
		t.Errorf("failed: %+v", a)
	}
	if a := s.latest(t, origin); a != before {
		t.Errorf("failed, and yet the latest is %q", a.body)
	}
	store.set(false, false)
	if a := s.add(t, l.request(t, 7, 8)); a.status != 200 {
		t.Errorf("after a failure: %+v", a)
	}

	store.set(false, true)
	if a := s.add(t, l.request(t, 8, 9)); a.status != 500 {
		t.Errorf("failed, but had been persisted: %+v", a)
	}
	store.set(false, false)
	// The witness cannot be led back below what it has persisted.
	if a := s.add(t, other.request(t, 8, 9)); a.status != 409 || a.body != "9\n" {
		t.Errorf("another history from before: %+v", a)
	}
	if a := s.add(t, other.request(t, 9, 9)); a.status != 422 {
		t.Errorf("another history: %+v", a)
	}

	// A crash after persisting leaves no cosigned checkpoint of that size; the
	// restarted witness makes up for it.
	s.http.Close()
	db.Close()
	s = startServer(t, key, openStore(t, path), l)
	if a := s.latest(t, origin); !strings.HasPrefix(a.body, string(l.checkpoint(t, 9))) || strings.Count(a.body, "— ") != 2 {
		t.Errorf("latest after restart is %q", a.body)
	}
	if a := s.add(t, l.request(t, 9, 9)); a.status != 200 {
		t.Errorf("repeating after restart: %+v", a)
	}
}

// What was answered before a restart is what is served after it.
func TestRestart(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	key := newKey(t, "witness.example/w", keys.Cosignature)
	path := filepath.Join(t.TempDir(), "w.db")
	db := openStore(t, path)
	s := startServer(t, key, db, l)
	s.add(t, l.request(t, 0, 7))
	s.add(t, l.request(t, 7, 9))
	before := s.latest(t, origin)
	s.http.Close()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openStore(t, path)
	s = startServer(t, key, db, l)
	if after := s.latest(t, origin); after != before {
		t.Errorf("latest was %q, is %q", before.body, after.body)
	}
	s.http.Close()
	db.Close()
	// With another key of the log the size still counts.
	renewed := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	s = startServer(t, newKey(t, "witness.example/new", keys.Cosignature), openStore(t, path), renewed)
	if a := s.add(t, renewed.request(t, 0, 8)); a.status != 409 || a.body != "9\n" {
		t.Errorf("with new keys: %+v", a)
	}
	if a := s.add(t, renewed.request(t, 9, 10)); a.status != 200 || !strings.HasPrefix(a.body, "— witness.example/new ") {
		t.Errorf("with new keys: %+v", a)
	}
}

// The race of tlog-witness, "add-checkpoint": the size never goes back.
func TestConcurrent(t *testing.T) {
	const clients, sizes = 1000, 60
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", sizes)
	s := newServer(t, l)
	var mu sync.Mutex
	var finished uint64 // the largest size that was answered with a cosignature
	var cosigned int
	var wg sync.WaitGroup
	slots := make(chan struct{}, 64) // open files are bounded
	for i := range clients {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			mu.Lock()
			floor := finished
			mu.Unlock()
			from := floor
			to := min(from+uint64(i%3), sizes)
			a := s.add(t, l.request(t, from, to))
			mu.Lock()
			defer mu.Unlock()
			switch a.status {
			case 200:
				cosigned++
				if to < floor {
					t.Errorf("size %d cosigned after %d", to, floor)
				}
				finished = max(finished, to)
			case 409:
				var size uint64
				if _, err := fmt.Sscan(a.body, &size); err != nil || size < floor {
					t.Errorf("conflict with size %q after %d", a.body, floor)
				}
			default:
				t.Errorf("answer is %+v", a)
			}
		})
	}
	wg.Wait()
	h, _, err := s.store.Head(t.Context(), origin)
	if err != nil || h.Size != finished || cosigned == 0 {
		t.Errorf("head is %d, %v; %d answered, %d times", h.Size, err, finished, cosigned)
	}
}

func TestServe(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	s := newServer(t, l)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	if a := do(t, "POST", "http://"+ln.Addr().String()+"/add-checkpoint", l.request(t, 0, 7)); a.status != http.StatusOK {
		t.Errorf("answer is %+v", a)
	}
	client.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNewRefuses(t *testing.T) {
	l := newKey(t, origin, keys.Ed25519)
	w := newKey(t, "w.example", keys.Cosignature)
	store := openStore(t, filepath.Join(t.TempDir(), "w.db"))
	logs := map[string][]keys.Public{origin: {l.Public}}
	for name, c := range map[string]witness.Config{
		"no key":                {Logs: logs, Store: store},
		"no store":              {Key: w, Logs: logs},
		"a log's key":           {Key: l, Logs: logs, Store: store},
		"no log key":            {Key: w, Logs: map[string][]keys.Public{origin: nil}, Store: store},
		"a witness's key":       {Key: w, Logs: map[string][]keys.Public{origin: {w.Public}}, Store: store},
		"a second Ed25519 key":  {Key: w, PostQuantumKey: newKey(t, "w2.example", keys.Cosignature), Logs: logs, Store: store},
		"two post-quantum keys": {Key: newKey(t, "w.example", keys.MLDSA44), PostQuantumKey: newKey(t, "w2.example", keys.MLDSA44), Logs: logs, Store: store},
		"empty origin":          {Key: w, Logs: map[string][]keys.Public{"": {l.Public}}, Store: store},
	} {
		if _, err := witness.New(t.Context(), c); err == nil {
			t.Errorf("%s: New succeeds", name)
		}
	}
}
