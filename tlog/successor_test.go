package tlog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/witness/policy"
)

// TestClosed: a closed log takes nothing, answers for what it has, and serves it.
func TestClosed(t *testing.T) {
	f := newFixture(t).start()
	p := f.producer("proxy-1")
	one := p.batch(5)
	f.mustSubmit(one...)
	next := newKey(t, "log.example/two", keys.Ed25519)
	entry, err := record.NewClose(f.key.Name, 2, next.Public, f.operator)
	if err != nil {
		t.Fatal(err)
	}
	f.mustSubmit(entry)
	isClosed := func(err error) bool {
		var e *tlog.ClosedError
		return errors.As(err, &e) && e.Successor.String() == next.Public.String()
	}
	for range 2 {
		size := f.log.Size()
		f.mustSubmit(one...) // where it stands is still told
		f.mustSubmit(entry)
		if _, err := f.submit(p.clone().batch(2)...); !isClosed(err) {
			t.Errorf("more records: %v", err)
		}
		if _, err := f.submit(newProducer(t, p.key).batch(2)...); !isClosed(err) {
			t.Errorf("records of another life: %v", err)
		}
		other, err := record.NewRetention(f.key.Name, 3, record.Retention{Entries: 1}, f.operator)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.submit(other); !isClosed(err) {
			t.Errorf("another statement: %v", err)
		}
		if f.log.Size() != size {
			t.Errorf("size %d, was %d", f.log.Size(), size)
		}
		f.published(size)
		if err := f.log.Ready(); err != nil {
			t.Error(err)
		}
		f.restart()
	}
	req := new(sealtapv1.SubmitRequest)
	for _, e := range p.batch(1) {
		req.Items = append(req.Items, &sealtapv1.Item{Entry: e})
	}
	body, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(f.serve().URL+"/v1/entries", "application/x-protobuf", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var problem struct{ Successor string }
	if err := json.NewDecoder(resp.Body).Decode(&problem); err != nil || resp.StatusCode != http.StatusGone || problem.Successor != next.Public.String() {
		t.Errorf("%d, %+v, %v", resp.StatusCode, problem, err)
	}
}

// TestBegin: a log begins with what its operator made elsewhere, and with nothing else.
func TestBegin(t *testing.T) {
	before := newFixture(t).start()
	before.published(1)
	head, _, _ := before.log.Checkpoint()
	f := newFixture(t)
	f.key = newKey(t, "log.example/two", keys.Ed25519)
	f.policy = f.newPolicy(nil, policy.None)
	p := newProducer(t, newKey(t, "proxy-1", keys.Ed25519))
	genesis, err := record.NewSuccessor(f.key.Public, f.operator, time.Now(), head)
	if err != nil {
		t.Fatal(err)
	}
	enrol, err := record.NewKeyChange(record.KeyChange{Origin: f.key.Name, Number: 1, Enrol: []keys.Public{p.key.Public}}, f.operator)
	if err != nil {
		t.Fatal(err)
	}
	begin := func(entries ...[]byte) {
		f.config = func(c *tlog.Config) { c.Operator, c.Begin = nil, entries }
	}
	elsewhere, err := record.NewGenesis(before.key.Public, f.operator, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, entries := range map[string][][]byte{
		"nothing": {}, "no genesis": {enrol}, "another log's genesis": {elsewhere}, "two": {genesis, genesis}, "garbage": {genesis, []byte("x")}, "a statement twice": {genesis, enrol, enrol},
	} {
		begin(entries...)
		if err := f.open(); !errors.Is(err, tlog.ErrConfig) {
			t.Errorf("beginning with %s: %v", name, err)
			f.stop()
		}
	}
	begin(genesis, enrol)
	f.start()
	late := newProducer(t, p.key)
	late.batch(2)
	if _, err := f.submit(late.batch(2)...); !expected(0)(err) || !strings.Contains(err.Error(), "log.example/one, from which this log goes on") {
		t.Errorf("the end of a life that began in the log before: %v", err)
	}
	f.mustSubmit(p.batch(3)...)
	f.published(6)
	f.checkTree()
	got, err := f.log.Entry(context.Background(), 0)
	if err != nil || !bytes.Equal(got, genesis) {
		t.Errorf("entry 0: %v", err)
	}
	f.restart()
	f.mustSubmit(p.batch(3)...)
}
