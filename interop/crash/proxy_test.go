package crash

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/sealtap/sealtap/interop/internal/stack"
)

// proxyFailpoints are the steps at which a proxy is ended, beside random moments.
var proxyFailpoints = []struct {
	name string
	most int // times that it is passed in a moment of load
}{
	{"spool-written", 60}, // not synced yet
	{"spool-synced", 60},  // nobody has been told
	{"start-recorded", 1}, // what the last life left open has no outcome yet
}

const proxyRounds = 10 // unless flag rounds says another number

// TestCrashProxy ends a real proxy with SIGKILL, over and over, while clients speak
// HTTP/1.1, HTTP/2 and WebSocket through it; in some rounds log and witnesses die at
// the same moment, and in some the proxy dies again while it recovers. The clients
// keep what they saw answered, the upstream what it was asked. At the end:
//
//   - of every exchange that a client saw answered, the request and the response
//     record are in the log once, with the digests of the bodies as the client had
//     them;
//   - whatever the upstream was asked has its request record;
//   - every request record has one response record: an exchange that was cut says
//     unknown. So may a WebSocket whose end was just seen: its record follows the end;
//   - sealtap audit passes.
func TestCrashProxy(t *testing.T) {
	if testing.Short() {
		t.Skip("kills a proxy over and over, which takes some seconds")
	}
	n := *rounds
	if n == 0 {
		n = proxyRounds
	}
	for first := 0; first < n; first += worldRounds {
		last := min(first+worldRounds, n) - 1
		t.Run(fmt.Sprintf("%d to %d", first, last), func(t *testing.T) {
			w := newProxyWorld(t)
			for i := first; i <= last && !t.Failed(); i++ {
				begin := time.Now()
				how := w.round()
				t.Logf("round %d: %s: %v, %v", i, how, w.traffic.count(), time.Since(begin).Round(time.Millisecond))
			}
			w.settleProxy()
			t.Logf("%v; %d outcomes are unknown", w.traffic.count(), w.ledger.unknown)
			if last-first > 5 && (w.ledger.unknown == 0 || w.traffic.count().answered < 20) {
				t.Errorf("%v and %d unknown outcomes: the test kills at no time that matters", w.traffic.count(), w.ledger.unknown)
			}
		})
	}
}

// proxyWorld is a world with a proxy, clients and an upstream.
type proxyWorld struct {
	*world
	proxy   *stack.Process
	traffic *traffic
	ledger  *ledger
}

func newProxyWorld(t *testing.T) *proxyWorld {
	t.Helper()
	tr := newTraffic(t)
	w := &proxyWorld{traffic: tr, ledger: newLedger(), world: newWorld(t, bin, 0, map[string]string{"proxy.upstream": tr.upstream})}
	path := w.file("config.yaml")
	text, err := os.ReadFile(path)
	w.check(err)
	text = bytes.Replace(text, []byte("\nproxy:\n"), []byte("\nproxy:\n  progress: {every: 100ms, bytes: 64KiB}\n"), 1)
	w.check(os.WriteFile(path, text, 0o600))
	tr.addr = w.config.Proxy.Listen
	t.Cleanup(func() {
		if w.proxy != nil {
			w.proxy.Kill()
		}
	})
	w.checked = newView()
	w.checked.each = w.ledger.add
	w.startWitnesses()
	w.startLog("")
	_, err = w.submit(t.Context(), w.enrolment)
	w.check(err)
	return w
}

// round runs the proxy under load to its end, and says how it ended.
func (w *proxyWorld) round() string {
	w.t.Helper()
	if !running(w.witnesses[0]) {
		w.startWitnesses()
	}
	if !running(w.log) && rand.IntN(2) == 0 { // else it stays away for a round, and the spool grows
		w.startLog("")
	}
	var how string
	group := false
	switch k := rand.IntN(4); {
	case k == 0:
		f := proxyFailpoints[rand.IntN(len(proxyFailpoints))]
		how = fmt.Sprintf("%s:%d", f.name, 1+rand.IntN(f.most))
		w.live("SEALTAP_FAILPOINT="+how, 2*time.Second, false)
	case k == 1:
		how, group = "random moment, group", true
		w.live("", w.moment(), true)
	default:
		how = "random moment"
		w.live("", w.moment(), false)
	}
	if !group && rand.IntN(3) == 0 { // once more, while it recovers
		p, err := w.start([]string{"SEALTAP_FAILPOINT=start-recorded:1"}, "proxy")
		w.check(err)
		select {
		case <-p.Done():
		case <-time.After(time.Duration(50+rand.IntN(400)) * time.Millisecond):
			p.Kill()
		}
		how += ", and while it recovered"
	}
	return how
}

func (w *proxyWorld) moment() time.Duration {
	return time.Duration(20+rand.IntN(300)) * time.Millisecond
}

// live is one life of the proxy under load, to a failpoint, or for the given time at
// most.
func (w *proxyWorld) live(env string, limit time.Duration, group bool) {
	w.t.Helper()
	w.proxy = w.launch([]string{env}, "proxy")
	stop := w.traffic.load()
	select {
	case <-w.proxy.Done():
	case <-time.After(limit):
	}
	w.traffic.dying.Store(true)
	if group {
		w.killGroup()
	}
	w.proxy.Kill()
	w.check(stop())
	if !w.proxy.Killed() {
		w.t.Fatalf("the proxy has ended by itself: %s", w.proxy.Output())
	}
}

// settleProxy starts everything, and waits until the log has published what was to
// be recorded. Then nothing more may be there either.
func (w *proxyWorld) settleProxy() {
	w.t.Helper()
	w.startWitnesses()
	if !running(w.log) {
		w.startLog("")
	}
	w.proxy = w.launch(nil, "proxy")
	w.check(w.traffic.once())
	// Its stop record comes last, and the log has everything before it.
	w.check(w.proxy.Stop())
	var missing error
	err := w.log.Await("all records", patience, func() bool {
		if missing = w.read(); missing == nil {
			missing = w.ledger.check(w.traffic)
		}
		return missing == nil
	})
	if err != nil {
		w.t.Fatalf("%v: %v", missing, err)
	}
	w.check(w.ledger.check(w.traffic))
	w.check(w.heads.compare(w.checked.roots))
	_, err = w.sealtap("audit", w.url, "--policy", w.file("policy.txt"), "--state", w.file("audit.state"))
	w.check(err)
}
