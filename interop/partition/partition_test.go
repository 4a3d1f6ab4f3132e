// Package partition cuts witnesses off from a log, as a network does: packets vanish,
// and no connection is refused. Each witness has a network namespace of its own.
//
// While too few witnesses can be reached no head is published, records go on being
// taken, and health says so; afterwards everything heals by itself.
package partition

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/policy"
)

// patience bounds every wait for something that must come: among it are time-outs of
// requests to witnesses that were cut off.
const patience = 90 * time.Second

func TestPartition(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for requests to time out")
	}
	w := newWorld(t)
	w.exchanges(10)
	w.await("heads with all witnesses", func() bool { return w.published() >= 20 && w.health() == "" })

	w.cut(1, 2)
	// What was on its way when the network broke has come or never will.
	var before uint64
	w.await("the heads to stop, and health to say so", func() bool {
		w.exchanges(1)
		before = w.published()
		return strings.Contains(w.health(), "quorum not met")
	})
	stored := w.stored()
	begin := time.Now()
	w.exchanges(30)
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("30 exchanges took %v without a quorum", took)
	}
	w.await("the records in the log", func() bool { return w.stored() >= stored+60 })
	if now := w.published(); now != before {
		t.Errorf("published %d after %d with one witness of three", now, before)
	}
	if why := w.health(); !strings.Contains(why, "entries are taken, but no new checkpoint is published") {
		t.Errorf("health says %q", why)
	}
	if code, body := w.get(w.log + "/healthz"); code != http.StatusOK {
		t.Errorf("a log without its witnesses is not alive: %d %s", code, body)
	}
	w.lags()

	w.heal(1, 2)
	w.await("everything to heal", func() bool { return w.published() >= stored+60 && w.health() == "" })
	w.exchanges(1) // the last to come gets a head to cosign
	for i := range w.witnesses {
		w.await(fmt.Sprintf("witness %d to catch up", i), func() bool { return w.seenBy(i) >= stored+60 })
	}

	// One witness of three is not missed.
	w.cut(0)
	before = w.published()
	w.exchanges(5)
	w.await("heads with two witnesses", func() bool { return w.published() >= before+10 })
	w.heal(0)

	out, err := exec.Command(w.bin, "audit", w.log, "--policy", filepath.Join(w.dir, "policy.txt")).CombinedOutput()
	if err != nil {
		t.Errorf("audit: %v\n%s", err, out)
	}
}

// world is a proxy and a log on this host, and three witnesses that are each beyond
// a link of their own.
type world struct {
	*testing.T
	bin, dir   string
	log, proxy string // URLs
	origin     string
	witnesses  []member
}

// member is a witness and its link.
type member struct{ namespace, link, url string }

func newWorld(t *testing.T) *world {
	t.Helper()
	tmp := t.TempDir()
	w := &world{T: t, dir: filepath.Join(tmp, "data")}
	for i := range 3 {
		w.link(i)
	}
	var err error
	w.bin, err = stack.Build(tmp)
	w.check(err)
	upstream := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { _, _ = io.Copy(rw, r.Body) }))
	t.Cleanup(upstream.Close)
	s, err := stack.Up(w.bin, w.dir, upstream.URL)
	w.check(err)
	w.check(s.Stop())
	w.log, w.proxy, w.origin = s.Log, s.Proxy, s.Origin()
	w.configure(s)
	conf := filepath.Join(w.dir, "config.yaml")
	for i, m := range w.witnesses {
		w.run("ip", "netns", "exec", m.namespace, w.bin, "witness", "--config", conf, "--name", fmt.Sprint("w", i+1))
	}
	w.run(w.bin, "log", "--config", conf)
	w.run(w.bin, "proxy", "--config", conf)
	return w
}

func (w *world) check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// run starts a daemon, and waits until it listens.
func (w *world) run(command ...string) {
	w.Helper()
	p, err := stack.Start(nil, command[0], command[1:]...)
	w.check(err)
	w.Cleanup(p.Kill)
	w.check(p.Await(strings.Join(command[1:], " "), patience, func() bool { return strings.Contains(p.Output(), "listens on") }))
}

// link makes a namespace and a link to it, of addresses that are reserved for tests
// of networks (RFC 2544).
func (w *world) link(i int) {
	w.Helper()
	n := os.Getpid()*4 + i
	m := member{namespace: fmt.Sprintf("sealtap%x", n), link: fmt.Sprintf("st%x", n)}
	base := n & 0x3f << 2
	here := fmt.Sprintf("198.18.%d.%d", n>>6&0xff, base+1)
	there := fmt.Sprintf("198.18.%d.%d", n>>6&0xff, base+2)
	m.url = "http://" + there + ":8080"
	if err := ip("netns", "add", m.namespace); err != nil {
		w.Skipf("network namespaces are not to be had here: %v", err)
	}
	w.Cleanup(func() { _ = ip("netns", "del", m.namespace) })
	for _, args := range [][]string{
		{"link", "add", m.link, "type", "veth", "peer", "name", "eth0", "netns", m.namespace},
		{"addr", "add", here + "/30", "dev", m.link},
		{"link", "set", m.link, "up"},
		{"-n", m.namespace, "addr", "add", there + "/30", "dev", "eth0"},
		{"-n", m.namespace, "link", "set", "lo", "up"},
		{"-n", m.namespace, "link", "set", "eth0", "up"},
	} {
		if err := ip(args...); err != nil {
			w.Skipf("links between network namespaces are not to be had here: %v", err)
		}
	}
	w.Cleanup(func() { _ = ip("link", "del", m.link) }) // it goes with the namespace, but later
	w.witnesses = append(w.witnesses, m)
}

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// cut has the packets to and from witnesses vanish.
func (w *world) cut(list ...int) {
	w.Helper()
	for _, i := range list {
		// At the far end: here the address would go with the route, and be refused.
		w.check(ip("-n", w.witnesses[i].namespace, "link", "set", "eth0", "down"))
	}
}

func (w *world) heal(list ...int) {
	w.Helper()
	for _, i := range list {
		w.check(ip("-n", w.witnesses[i].namespace, "link", "set", "eth0", "up"))
	}
}

// configure moves the witnesses beyond the links, adds a third, and has two of the
// three be enough.
func (w *world) configure(s *stack.Stack) {
	w.Helper()
	path := filepath.Join(w.dir, "config.yaml")
	c, err := config.Load(path)
	w.check(err)
	text, err := os.ReadFile(path)
	w.check(err)
	k, err := keys.Generate(w.origin+"/w3", keys.Cosignature)
	w.check(err)
	w.check(k.Save(filepath.Join(w.dir, "keys", "w3.key")))
	members := append(s.Policy.Witnesses, policy.Witness{Name: "w3", Key: k.Public})
	for i := range members {
		members[i].URL = w.witnesses[i].url
	}
	for i, x := range c.Witnesses {
		text = bytes.Replace(text, []byte("listen: "+x.Listen+"\n"), []byte("listen: "+strings.TrimPrefix(w.witnesses[i].url, "http://")+"\n"), 1)
	}
	// The witnesses are the last section of the file.
	text = fmt.Appendf(text, "  - name: w3\n    listen: %s\n    database: w3.db\n    key: keys/w3.key\n    logs: [%q]\n",
		strings.TrimPrefix(w.witnesses[2].url, "http://"), s.Policy.Logs[0].Key)
	w.check(os.WriteFile(path, text, 0o600))
	p, err := policy.New(s.Policy.Logs, members, []policy.Group{{Name: "most", K: 2, Members: []string{"w1", "w2", "w3"}}}, "most", s.Policy.Operator)
	w.check(err)
	w.check(os.WriteFile(filepath.Join(w.dir, "policy.txt"), p.Marshal(), 0o600))
}

// await waits for what must come.
func (w *world) await(what string, ready func() bool) {
	w.Helper()
	for end := time.Now().Add(patience); !ready(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("waiting for %s: published %d, stored %d, health %q", what, w.published(), w.stored(), w.health())
		}
	}
}

// exchanges sends requests through the proxy, every one of which must succeed.
func (w *world) exchanges(n int) {
	w.Helper()
	for range n {
		resp, err := http.Post(w.proxy+"/echo", "text/plain", strings.NewReader("hello"))
		w.check(err)
		b, err := io.ReadAll(resp.Body)
		w.check(errors.Join(err, resp.Body.Close()))
		if resp.StatusCode != http.StatusOK || string(b) != "hello" {
			w.Fatalf("an exchange is answered %s: %q", resp.Status, b)
		}
	}
}

func (w *world) get(url string) (int, []byte) {
	w.Helper()
	c := http.Client{Timeout: patience}
	resp, err := c.Get(url)
	w.check(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	w.check(err)
	return resp.StatusCode, b
}

// health is why the log is not ready, "" if it is.
func (w *world) health() string {
	w.Helper()
	code, body := w.get(w.log + "/readyz")
	if code == http.StatusOK {
		return ""
	}
	return string(body)
}

func (w *world) size(url string) uint64 {
	w.Helper()
	code, b := w.get(url)
	if code != http.StatusOK {
		w.Fatalf("%s: %d: %s", url, code, b)
	}
	text, err := checkpoint.Text(b)
	w.check(err)
	body, _, err := checkpoint.Parse(text)
	w.check(err)
	return body.Size
}

// published is the size of the published head.
func (w *world) published() uint64 {
	w.Helper()
	return w.size(w.log + "/checkpoint")
}

// seenBy is the size that a witness has cosigned, as it says itself.
func (w *world) seenBy(i int) uint64 {
	w.Helper()
	return w.size(w.witnesses[i].url + "/" + witness.OriginHash(w.origin) + "/checkpoint")
}

// stored is how many entries the log has taken, published or not.
func (w *world) stored() uint64 {
	w.Helper()
	_, b := w.get(w.log + "/metrics")
	for line := range strings.Lines(string(b)) {
		var n float64
		if value, ok := strings.CutPrefix(line, "sealtap_log_size "); ok {
			_, err := fmt.Sscan(value, &n)
			w.check(err)
			return uint64(n)
		}
	}
	w.Fatal("the log does not say how many entries it has")
	return 0
}

// lags checks that the log names the witnesses that it misses.
func (w *world) lags() {
	w.Helper()
	_, b := w.get(w.log + "/v1/witnesses")
	var page struct {
		Witnesses []struct {
			Name  string `json:"name"`
			Error string `json:"error"`
		} `json:"witnesses"`
	}
	w.check(json.Unmarshal(b, &page))
	if len(page.Witnesses) != 3 {
		w.Fatalf("witnesses: %s", b)
	}
	for _, x := range page.Witnesses {
		if (x.Error != "") != (x.Name != "w1") {
			w.Errorf("witness %s: last error %q", x.Name, x.Error)
		}
	}
}
