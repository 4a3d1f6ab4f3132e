package socks

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestMessages(t *testing.T) {
	r := bytes.NewReader([]byte("\x05\x02\x00\x02" + "\x01\x03ann\x02pw" + "\x05\x01\x00\x03\x09a.example\x01\xbb" + "rest"))
	m, err := ReadMethods(r)
	if err != nil || string(m) != "\x00\x02" {
		t.Fatal(m, err)
	}
	if name, password, err := ReadUser(r); err != nil || name != "ann" || password != "pw" {
		t.Fatal(name, password, err)
	}
	q, code, err := ReadRequest(r)
	if err != nil || code != Succeeded || q.Command != Connect || q.Authority() != "a.example:443" || q.Addr.IsValid() {
		t.Fatal(q, code, err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "rest" {
		t.Errorf("%q is left", rest)
	}
	for in, want := range map[string]string{
		"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50":                                                 "127.0.0.1:80",
		"\x05\x03\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x1f\x90": "[::1]:8080",
	} {
		if q, _, err := ReadRequest(bytes.NewReader([]byte(in))); err != nil || q.Authority() != want || !q.Addr.IsValid() {
			t.Errorf("%q: %+v %v", in, q, err)
		}
	}
}

func TestMalformed(t *testing.T) {
	for _, in := range []string{"", "\x05", "\x04\x01\x00", "GET / HTTP/1.1\r\n", "\x05\x00", "\x05\x03\x00\x01"} {
		if _, err := ReadMethods(bytes.NewReader([]byte(in))); !errors.Is(err, ErrMalformed) {
			t.Errorf("methods %q: %v", in, err)
		}
	}
	for _, in := range []string{"", "\x02\x01a\x01b", "\x01\x00\x01b", "\x01\x01a\x00", "\x01\x05ann"} {
		if _, _, err := ReadUser(bytes.NewReader([]byte(in))); !errors.Is(err, ErrMalformed) {
			t.Errorf("user %q: %v", in, err)
		}
	}
	for in, want := range map[string]Reply{
		"":                          GeneralFailure,
		"\x04\x01\x00\x01":          GeneralFailure,
		"\x05\x01\x01\x01abcd\x00P": GeneralFailure,
		"\x05\x01\x00\x02abcd\x00P": AddressUnsupported,
		"\x05\x01\x00\x03\x00\x00P": GeneralFailure,
		"\x05\x01\x00\x03\x09a.ex":  GeneralFailure,
		"\x05\x01\x00\x01abcd\x00":  GeneralFailure,
	} {
		if _, code, err := ReadRequest(bytes.NewReader([]byte(in))); !errors.Is(err, ErrMalformed) || code != want {
			t.Errorf("request %q: %v %v", in, code, err)
		}
	}
	if a := Answer(NotAllowed); string(a) != "\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00" {
		t.Errorf("%q", a)
	}
}

// FuzzMessages: what is read is bounded, and no more is taken than what makes the
// messages.
func FuzzMessages(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x03\x09a.example\x01\xbbrest"))
	f.Add([]byte("\x05\x01\x02\x01\x03ann\x02pw\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		m, err := ReadMethods(r)
		if err != nil {
			return
		}
		used := 2 + len(m)
		if bytes.IndexByte(m, UserPassword) >= 0 {
			name, password, err := ReadUser(r)
			if err != nil {
				return
			}
			used += 3 + len(name) + len(password)
		}
		q, code, err := ReadRequest(r)
		if err != nil {
			if code == Succeeded {
				t.Error("an error with the code of success")
			}
			return
		}
		switch {
		case q.Addr.Is4():
			used += 4 + 4 + 2
		case q.Addr.Is6():
			used += 4 + 16 + 2
		default:
			used += 4 + 1 + len(q.Host) + 2
		}
		if used != len(data)-r.Len() {
			t.Errorf("%d bytes were taken, the messages have %d", len(data)-r.Len(), used)
		}
	})
}
