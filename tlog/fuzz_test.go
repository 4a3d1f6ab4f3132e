package tlog_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// FuzzSubmit submits any bytes, as protobuf and as JSON. The log takes them or says
// what is wrong with them; it never fails, and never stores what no producer has
// signed.
func FuzzSubmit(f *testing.F) {
	log := newFixture(f).start()
	p := log.producer("proxy-1")
	batch := p.batch(3)
	log.mustSubmit(batch...)
	size := log.log.Size()
	good, err := proto.Marshal(request(batch...))
	if err != nil {
		f.Fatal(err)
	}
	text, err := protojson.Marshal(request(batch...))
	if err != nil {
		f.Fatal(err)
	}
	sealer := &sealtapv1.SubmitRequest{Items: request(batch...).Items, Keys: []*sealtapv1.WrappedKey{{Id: make([]byte, 16), Wrapped: []byte("x")}}}
	withKey, err := proto.Marshal(sealer)
	if err != nil {
		f.Fatal(err)
	}
	for _, body := range [][]byte{good, text, withKey, good[:len(good)-1], {}, []byte("{}"), []byte(`{"items":[{"entry":"AQI="}]}`), {0x0a, 0x00}} {
		f.Add(body, true)
		f.Add(body, false)
	}
	handler := log.log.Handler()
	f.Fuzz(func(t *testing.T, body []byte, asJSON bool) {
		r, err := http.NewRequest(http.MethodPost, "http://log.example/v1/entries", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if r.Header.Set("Content-Type", "application/x-protobuf"); asJSON {
			r.Header.Set("Content-Type", "application/json")
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code >= 500 || w.Code != http.StatusOK && w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%x: %d %s", body, w.Code, w.Body)
		}
		if log.log.Size() != size { // the fuzzer has no key
			t.Errorf("%x was stored", body)
		}
	})
}
