package crash

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/interop/internal/producer"
	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

// patience bounds every wait for something that must come.
const patience = 60 * time.Second

// world is one log with its witnesses, each a process, and all that is known of
// it from outside.
type world struct {
	t        *testing.T
	bin, dir string
	config   *config.File
	policy   *policy.Policy
	url      string // of the log
	heads    *heads
	client   *client.Client

	enrolment *sealtapv1.SubmitRequest
	producers []*producer.Producer

	group     int // of processes
	log       *stack.Process
	witnesses []*stack.Process

	checked view // what was verified so far
}

// newWorld makes keys, policy and configuration with sealtap up, and leaves the
// databases to be begun. edits change the configuration.
func newWorld(t *testing.T, bin string, producers int, edits map[string]string) *world {
	t.Helper()
	w := &world{t: t, bin: bin, dir: filepath.Join(t.TempDir(), "data")}
	s, err := stack.Up(bin, w.dir, "")
	if err == nil {
		err = s.Stop()
	}
	w.check(err)
	for _, pattern := range []string{"*.db*", "spool"} {
		names, _ := filepath.Glob(filepath.Join(w.dir, pattern))
		for _, n := range names {
			w.check(os.RemoveAll(n))
		}
	}
	w.configure(edits)
	v, err := note.NewVerifier(w.policy.Logs[0].Key.String())
	w.check(err)
	w.heads = newHeads(v)
	w.interpose()
	w.url = "http://" + w.config.Log.Listen
	w.client, err = client.New(w.url, w.policy, client.WithRetries(1, 0))
	w.check(err)
	w.makeProducers(producers)
	t.Cleanup(w.killAll)
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) file(name ...string) string {
	return filepath.Join(append([]string{w.dir}, name...)...)
}

func (w *world) configure(edits map[string]string) {
	w.t.Helper()
	path := w.file("config.yaml")
	text, err := os.ReadFile(path)
	w.check(err)
	all := map[string]string{"log.checkpoint_interval": "15ms"}
	for k, v := range edits {
		all[k] = v
	}
	text, err = config.Edit(path, text, all)
	w.check(err)
	w.check(os.WriteFile(path, text, 0o600))
	w.config, err = config.Load(path)
	w.check(err)
	text, err = os.ReadFile(w.file("policy.txt"))
	w.check(err)
	w.policy, err = policy.Parse(text)
	w.check(err)
}

// interpose puts a relay between log and each witness.
func (w *world) interpose() {
	w.t.Helper()
	path := w.file("policy.txt")
	text, err := os.ReadFile(path)
	w.check(err)
	for _, c := range w.config.Witnesses {
		text = []byte(strings.ReplaceAll(string(text), "http://"+c.Listen, relay(w.t, c.Listen, string(w.config.Log.Database)+".signed", w.heads)))
	}
	w.check(os.WriteFile(path, text, 0o600))
}

func (w *world) makeProducers(n int) {
	w.t.Helper()
	key, err := keys.Load(w.file("keys", "proxy.key"))
	w.check(err)
	operator, err := keys.Load(w.file("keys", "operator.key"))
	w.check(err)
	entry, err := record.NewKeyChange(record.KeyChange{Origin: w.policy.Logs[0].Key.Name, Number: 1, Enrol: []keys.Public{key.Public}}, operator)
	w.check(err)
	w.enrolment = &sealtapv1.SubmitRequest{Items: []*sealtapv1.Item{{Entry: entry}}}
	recipient, err := age.ParseX25519Recipient(w.config.Proxy.OpeningsTo[0])
	w.check(err)
	for range n {
		boxes, err := record.NewOpeningSealer(recipient)
		w.check(err)
		p, err := producer.New(key, boxes)
		w.check(err)
		w.producers = append(w.producers, p)
	}
}

// startWitnesses starts those that do not run.
func (w *world) startWitnesses() {
	w.t.Helper()
	if w.witnesses == nil {
		w.witnesses = make([]*stack.Process, len(w.config.Witnesses))
	}
	for i, c := range w.config.Witnesses {
		if running(w.witnesses[i]) {
			continue
		}
		p := w.launch(nil, "witness", "--name", c.Name)
		if i == 0 {
			w.group = p.PID()
		}
		w.witnesses[i] = p
		if !running(p) {
			w.t.Fatalf("witness %s has ended: %s", c.Name, p.Output())
		}
	}
}

func running(p *stack.Process) bool {
	if p == nil {
		return false
	}
	select {
	case <-p.Done():
		return false
	default:
		return true
	}
}

func listens(p *stack.Process) bool { return strings.Contains(p.Output(), " listens on ") }

// start starts a daemon in the group of the first witness, which leads it.
func (w *world) start(env []string, verb string, flags ...string) (*stack.Process, error) {
	group := w.group
	if !running(w.witnesses[0]) {
		group = 0
	}
	args := append([]string{verb, "--config", w.file("config.yaml")}, flags...)
	return stack.StartInGroup(group, env, w.bin, args...)
}

// startLog starts the log, with a failpoint or "". It returns once the log listens
// or was killed.
func (w *world) startLog(failpoint string) {
	w.t.Helper()
	w.log = w.launch([]string{"SEALTAP_FAILPOINT=" + failpoint}, "log")
}

// launch starts a daemon, and returns once it listens or was killed. A port that
// somebody's connection has for the moment is waited for.
func (w *world) launch(env []string, verb string, flags ...string) *stack.Process {
	w.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		p, err := w.start(env, verb, flags...)
		w.check(err)
		err = p.Await("its address", patience, func() bool { return listens(p) || !running(p) })
		if err == nil && listens(p) || !running(p) && p.Killed() {
			return p
		}
		p.Kill()
		if !strings.Contains(p.Output(), "address already in use") || time.Now().After(end) {
			w.t.Fatalf("sealtap %s did not start: %v: %s", verb, err, p.Output())
		}
	}
}

// killGroup ends log and witnesses at the same moment.
func (w *world) killGroup() {
	if running(w.witnesses[0]) { // who leads it: else the number may be somebody else's by now
		_ = syscall.Kill(-w.group, syscall.SIGKILL)
	}
	w.awaitEnd()
}

func (w *world) awaitEnd() {
	for _, p := range append([]*stack.Process{w.log}, w.witnesses...) {
		if p != nil {
			<-p.Done()
		}
	}
}

func (w *world) killAll() {
	for _, p := range append([]*stack.Process{w.log}, w.witnesses...) {
		if p != nil {
			p.Kill()
		}
	}
}

// look takes every checkpoint that can be seen from outside.
func (w *world) look(ctx context.Context) {
	if cp, err := stack.Fetch(ctx, w.url+"/checkpoint"); err == nil {
		w.heads.show(cp)
	}
	hash := sha256.Sum256([]byte(w.policy.Logs[0].Key.Name))
	for _, c := range w.config.Witnesses {
		if cp, err := stack.Fetch(ctx, "http://"+c.Listen+"/"+hex.EncodeToString(hash[:])+"/checkpoint"); err == nil {
			w.heads.add("served by "+c.Name, cp)
		}
	}
	if cp, err := os.ReadFile(string(w.config.Log.Database) + ".signed"); err == nil {
		w.heads.add("in the .signed file", cp)
	}
}

// sealtap runs a command to its end and returns what it printed.
func (w *world) sealtap(args ...string) (string, error) {
	p, err := stack.Start(nil, w.bin, args...)
	if err != nil {
		return "", err
	}
	select {
	case <-p.Done():
	case <-time.After(patience):
		p.Kill()
	}
	if code := p.ExitCode(); code != 0 {
		err = fmt.Errorf("sealtap %s: exit code %d: %s", strings.Join(args, " "), code, p.Output())
	}
	return p.Output(), err
}

// submit submits until the log takes it or ctx ends.
func (w *world) submit(ctx context.Context, req *sealtapv1.SubmitRequest) (*sealtapv1.SubmitResponse, error) {
	for {
		answer, err := w.client.Submit(ctx, req)
		if err == nil {
			return answer, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !errors.Is(err, client.ErrUnavailable) {
			return nil, fmt.Errorf("the log refuses a submission: %w", err)
		}
		time.Sleep(3 * time.Millisecond)
	}
}
