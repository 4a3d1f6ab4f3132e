// Package crash ends the real sealtap log at every step of the order of
// durability, over and over, under load, and then has programs that are not ours
// check what must hold whatever happened:
//
//   - no two roots were ever signed for one size, wherever a checkpoint was seen:
//     on its way to a witness, at a witness, in the .signed file, published;
//   - the root of each of them is that of the entries, recomputed;
//   - the published size never went back;
//   - everything that was acknowledged is there once, at the index that was told,
//     with its openings, and nothing else is there;
//   - sealtap audit passes, also with the state of the audits before.
//
// make crash runs 200 rounds; make test runs each failpoint once and some rounds
// that end at a random moment. TestCrashProxy does the same to a proxy: see there.
package crash

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/interop/internal/stack"
)

var rounds = flag.Int("rounds", 0, "how often the log is killed; 0 means each failpoint once and 8 times at random")

// failpoints are the steps, and about how often one is passed while the log is
// under load for a second.
var failpoints = []struct {
	name string
	most int
}{
	{"entries-written", 25}, // in the transaction, before its commit
	{"entries-committed", 25},
	{"snapshot-shown", 25},
	{"openings-stored", 20},
	{"group-stored", 25}, // entries and openings; nobody has been told
	{"answered", 25},
	{"signed", 10},       // in memory
	{"file-written", 10}, // of the .signed file: the new file next to it
	{"file-synced", 10},
	{"file-renamed", 10}, // the directory is not synced
	{"signed-file", 10},  // the file is durable, the database does not know
	{"signed-kept", 10},  // both; the witnesses have not been asked
	{"cosigned", 10},
	{"published-written", 10}, // in the transaction
	{"published-kept", 10},
	{"published-shown", 10},
}

// worldRounds is how many rounds one log lives through.
const worldRounds = 25

var bin string

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) int {
	flag.Parse()
	if testing.Short() {
		return m.Run()
	}
	tmp, err := os.MkdirTemp("", "sealtap-crash")
	if err == nil {
		defer os.RemoveAll(tmp)
		err = os.Chmod(tmp, 0o755) // for a log that runs as somebody else
	}
	if err == nil {
		bin, err = stack.BuildTagged(tmp, "failpoints")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
		return 1
	}
	return m.Run()
}

// ending is how a round ends.
type ending struct {
	failpoint string // "": SIGKILL from outside
	count     int
	group     bool // the witnesses end as well
	stall     bool // the step takes long before the end, and everybody looks on
}

func (e ending) String() string {
	switch {
	case e.failpoint != "":
		return e.spec()
	case e.group:
		return "random moment, group"
	}
	return "random moment"
}

// spec is the specification of the failpoint.
func (e ending) spec() string {
	text := fmt.Sprintf("%s:%d", e.failpoint, e.count)
	switch {
	case e.failpoint == "":
		return ""
	case e.stall:
		return text + ":stall"
	case e.group:
		return text + ":group"
	}
	return text
}

// plan says how n rounds end: all failpoints in turn, with every third round at a
// random moment.
func plan(n int) []ending {
	if n == 0 {
		n = len(failpoints) + len(failpoints)/2
	}
	var list []ending
	for i := 0; len(list) < n; i++ {
		f := failpoints[i%len(failpoints)]
		list = append(list, ending{f.name, 1 + rand.IntN(f.most), rand.IntN(4) == 0, rand.IntN(3) == 0})
		if i%2 == 1 {
			list = append(list, ending{group: rand.IntN(2) == 0})
		}
	}
	list = list[:n]
	rand.Shuffle(n, func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

func TestCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("kills a log some dozen times, which takes most of a minute")
	}
	list := plan(*rounds)
	for first := 0; first < len(list); first += worldRounds {
		part := list[first:min(first+worldRounds, len(list))]
		t.Run(fmt.Sprintf("%d to %d", first, first+len(part)-1), func(t *testing.T) {
			w := newWorld(t, bin, 4, nil)
			for i, e := range part {
				begin := time.Now()
				w.round(e)
				if t.Failed() {
					return
				}
				t.Logf("round %d: %v: %d entries, %d checkpoints seen, %v", first+i, e, w.entries(), w.heads.seen, time.Since(begin).Round(time.Millisecond))
			}
			w.check(w.verifyAll())
		})
	}
}

// round runs the log under load to the ending, sometimes once more while it
// recovers, and checks everything after the next start.
func (w *world) round(e ending) {
	w.t.Helper()
	w.runTo(e, true)
	if rand.IntN(3) == 0 {
		f := failpoints[rand.IntN(len(failpoints))]
		w.runTo(ending{failpoint: f.name, count: 1 + rand.IntN(2)}, false)
	}
	w.startWitnesses()
	// What is published before anything new could be: what was kept.
	w.startLog("signed:1:stall")
	w.check(w.log.Await("HTTP", patience, func() bool {
		_, err := stack.Fetch(w.t.Context(), w.url+"/healthz")
		return err == nil
	}))
	w.look(w.t.Context())
	w.log.Kill()
	w.startLog("")
	if !running(w.log) {
		w.t.Fatalf("after %v the log does not start: %s", e, w.log.Output())
	}
	w.settle()
	if err := w.verify(); err != nil {
		w.t.Errorf("after %v: %v", e, err)
	}
	w.log.Kill()
}

// runTo runs the log under load until it ends as it should. Where the failpoint
// need not be reached, the log is killed after a while.
func (w *world) runTo(e ending, must bool) {
	w.t.Helper()
	w.startWitnesses()
	w.startLog(e.spec())
	stop := w.load()
	limit := patience
	if e.failpoint == "" {
		limit = time.Duration(1+rand.IntN(400)) * time.Millisecond
	} else if !must {
		limit = time.Second
	}
	err := w.log.Await("the end", limit, func() bool { return !running(w.log) || strings.Contains(w.log.Output(), "stalled at") })
	if err != nil && running(w.log) && e.failpoint != "" && must {
		w.t.Errorf("the log has not come to %v: %v", e, err)
	}
	if e.stall && running(w.log) {
		time.Sleep(time.Duration(20+rand.IntN(60)) * time.Millisecond)
	}
	if e.group {
		w.killGroup()
	}
	w.log.Kill()
	w.check(stop())
	if !w.log.Killed() {
		w.t.Fatalf("the log has ended by itself: %s", w.log.Output())
	}
	w.look(w.t.Context())
}
