package tlog

import (
	"strings"
	"testing"
)

func TestNegotiate(t *testing.T) {
	const none = ""
	for accept, want := range map[string]string{
		"":                                      identity,
		"gzip":                                  codingGzip,
		"x-gzip":                                codingGzip,
		"GZIP":                                  codingGzip,
		"zstd":                                  codingZstd,
		"gzip, deflate, br, zstd":               codingZstd,
		"gzip;q=1.0, zstd;q=0.5":                codingGzip,
		"gzip;q=0.5,zstd;q=0.500":               codingZstd,
		"zstd;q=0":                              identity,
		"zstd;q=0.000, gzip":                    codingGzip,
		"zstd ; q=0.001":                        codingZstd,
		"zstd;Q=0":                              identity,
		"identity":                              identity,
		"identity, gzip;q=0.9":                  identity,
		"identity, gzip":                        codingGzip,
		"identity;q=0.1, gzip;q=0.2":            codingGzip,
		"*":                                     codingZstd,
		"*;q=0.1":                               codingZstd,
		"*, zstd;q=0":                           codingGzip,
		"gzip;q=0.3, *;q=0.4":                   codingZstd,
		"identity;q=0.5, *;q=0.1":               identity,
		"identity;q=0":                          none,
		"*;q=0":                                 none,
		"*;q=0, identity":                       identity,
		"*;q=0, identity;q=0":                   none,
		"identity;q=0, *":                       codingZstd,
		"identity;q=0, gzip":                    codingGzip,
		"*;q=0, gzip;q=0.1":                     codingGzip,
		"identity;q=0, deflate, br":             none,
		"br":                                    identity,
		"zstd;q=2":                              identity,
		"zstd;q=-1":                             identity,
		"zstd;q=1.001":                          identity,
		"zstd;q=0.0001":                         identity,
		"zstd;q=.5":                             identity,
		"zstd;q=":                               identity,
		"zstd;q=0.+1":                           identity,
		"zstd;q":                                identity,
		"zstd;level=1":                          identity,
		"zstd;q=NaN, gzip;q=1e-3, identity;q=1": identity,
		",, ,gzip,,":                            codingGzip,
		"gzip;q=0, gzip":                        identity,
		" \t gzip \t ":                          codingGzip,
		";q=1":                                  identity,
	} {
		var fields []string
		if accept != "" {
			fields = []string{accept}
		}
		got, ok := negotiate(fields)
		if ok != (want != none) || ok && got != want {
			t.Errorf("Accept-Encoding %q gives %q, %v; want %q", accept, got, ok, want)
		}
	}
	if got, _ := negotiate([]string{""}); got != identity {
		t.Errorf("an empty field gives %q", got)
	}
	if got, _ := negotiate([]string{"br", "gzip"}); got != codingGzip {
		t.Errorf("two fields give %q", got)
	}
}

// FuzzNegotiate checks the rules of RFC 9110, section 12.5.3, one by one.
func FuzzNegotiate(f *testing.F) {
	for _, s := range []string{"gzip;q=0, zstd;q=0.5, *;q=0.1", "identity;q=0", "*", "x-gzip;q=1.000", ",;=,q=", "zstd;q=0;q=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, accept string) {
		got, ok := negotiate([]string{accept})
		lower := strings.ToLower(accept)
		switch {
		case !ok && !strings.Contains(lower, "identity") && !strings.Contains(lower, "*"):
			t.Error("identity was not excluded")
		case !ok && !strings.Contains(lower, "q=0"):
			t.Error("nothing was excluded")
		case ok && got != identity && !strings.Contains(lower, got) && !strings.Contains(lower, "*"):
			t.Errorf("%s was not asked for", got)
		}
		for _, c := range []string{codingZstd, codingGzip, identity} {
			first, _, _ := strings.Cut(accept, ",")
			if ok && got == c && strings.EqualFold(strings.TrimSpace(first), c+";q=0") {
				t.Errorf("%s was excluded", c)
			}
		}
		for _, c := range accept {
			if c > 'z' {
				return // has capitals of another kind
			}
		}
		if again, ok2 := negotiate([]string{strings.ToUpper(accept)}); again != got || ok2 != ok {
			t.Errorf("in capitals it gives %q, not %q", again, got)
		}
	})
}

func TestNoneMatch(t *testing.T) {
	const tag = `"00112233-zstd"`
	for field, want := range map[string]bool{
		"*": true, " * ": true, tag: true, "W/" + tag: true, `"x", ` + tag: true, tag + ` , "x"`: true, `"a,b",` + tag: true,
		"": false, `""`: false, `"00112233"`: false, `00112233-zstd`: false, `w/` + tag: false, `"x"`: false, `*, "x"`: false, tag[1:]: false,
	} {
		if got := noneMatch([]string{field}, tag); got != want {
			t.Errorf("If-None-Match %s: %v", field, got)
		}
	}
	if noneMatch(nil, tag) || !noneMatch([]string{`"x"`, tag}, tag) {
		t.Error("fields are not joined")
	}
}
