package route

import "testing"

func TestPlain(t *testing.T) {
	for path, want := range map[string]string{
		"/": "/", "/a/b": "/a/b", "/%61/b%20c": "/a/b c", "/a/": "/a/", "/%C3%A9": "/é", "/a%3Bb": "/a;b", "/.well-known/x..y": "/.well-known/x..y", "/a%25b": "/a%b",
	} {
		if got, err := Plain(path); err != nil || got != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	for _, path := range []string{"", "a", "//a", "/a//b", "/a/../b", "/a/%2e%2E/b", "/a%2fb", `/a\b`, "/a%5Cb", "/a;x=1", "/a%00", "/a#b", "/a%zz", "/%2"} {
		if got, err := Plain(path); err == nil {
			t.Errorf("%s: %q", path, got)
		}
	}
}
