package bundle

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/witness/policy"
)

// ofBytes verifies an archive that is in memory.
func (w *world) ofBytes(b []byte) (*Report, error) {
	return verify(&archive{r: bytes.NewReader(b), close: func() error { return nil }}, VerifyOptions{Policy: w.policy})
}

// TestBits: a bit of an archive that is another one is found, wherever it is. Every
// bit of what is not evidence and not the report is flipped, of these some.
func TestBits(t *testing.T) {
	w := newWorld(t)
	o := w.options("/a/29")
	o.Complete, o.Since, o.Until = true, begin.Add(280*time.Second), begin.Add(290*time.Second)
	whole := must[[]byte](t)(os.ReadFile(w.make("b.tar", o)))
	r := must[*Report](t)(w.ofBytes(whole))
	good(t, r)
	flip := func(bit int) {
		b := bytes.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		r, err := w.ofBytes(b)
		if err != nil {
			t.Fatalf("bit %d: %v", bit, err)
		}
		if r.Verdict != audit.Fail {
			t.Fatalf("bit %d of byte %d (%q) is not found: %s", bit%8, bit/8, whole[max(0, bit/8-20):bit/8+1], r.Text())
		}
	}
	manifest := block + len(must[[]byte](t)((&archive{r: bytes.NewReader(whole)}).manifest()))
	step := 3
	if testing.Short() {
		step = 37
	}
	for bit := 0; bit < 8*manifest; bit += step {
		flip(bit)
	}
	some := rand.New(rand.NewPCG(1, 2))
	for range 600 / step {
		flip(some.IntN(8 * len(whole)))
	}
	for n := 0; n < len(whole); n += 1 + len(whole)/(60/step+20) {
		if r, err := w.ofBytes(whole[:n]); err != nil || r.Verdict != audit.Fail {
			t.Fatalf("cut after %d bytes: %v", n, err)
		}
	}
	if r, err := w.ofBytes(append(bytes.Clone(whole), 0)); err != nil || r.Verdict != audit.Fail {
		t.Fatalf("a byte more: %v", err)
	}
}

// packed makes an archive of anything.
func packed(t *testing.T, list ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range list {
		body := h.PAXRecords["test.body"]
		h.PAXRecords = nil
		if h.Size == 0 {
			h.Size = int64(len(body))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	_ = w.Close() // where a size is a lie it cannot
	return b.Bytes()
}

func manifestOf(t *testing.T, members ...Member) string {
	t.Helper()
	return string(must[[]byte](t)(Manifest{Format: Format, Filter: map[string]string{}, Openings: []string{}, Members: members}.marshal()))
}

func TestHostileArchives(t *testing.T) {
	w := newWorld(t)
	file := func(name, body string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR, PAXRecords: map[string]string{"test.body": body}}
	}
	link := func(name, to string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	}
	one := Member{readme, 2, strings.Repeat("0", 64)}
	deep := strings.Repeat(`{"filter":`, 100_000)
	for name, b := range map[string][]byte{
		"nothing":             nil,
		"no archive":          []byte("sealtap/evidence/v1\n"),
		"zip slip":            packed(t, file(ManifestName, manifestOf(t, one)), file("../../etc/passwd", "hi")),
		"an absolute name":    packed(t, file(ManifestName, manifestOf(t, one)), file("/etc/passwd", "hi")),
		"a slip listed":       packed(t, file(ManifestName, manifestOf(t, Member{"../../etc/passwd", 2, one.SHA256})), file("../../etc/passwd", "hi")),
		"a link":              packed(t, file(ManifestName, manifestOf(t, one)), link(readme, "/etc/passwd")),
		"the manifest a link": packed(t, link(ManifestName, "/etc/passwd")),
		"a member twice":      packed(t, file(ManifestName, manifestOf(t, one, one)), file(readme, "hi"), file(readme, "hi")),
		"twice in the file":   packed(t, file(ManifestName, manifestOf(t, one)), file(readme, "hi"), file(readme, "hi")),
		"another order":       packed(t, file(ManifestName, manifestOf(t, Member{headFile, 2, one.SHA256}, one)), file(headFile, "hi"), file(readme, "hi")),
		"size is a lie":       packed(t, file(ManifestName, manifestOf(t, Member{readme, 1 << 32, one.SHA256})), file(readme, "hi")),
		"size beyond all":     packed(t, file(ManifestName, manifestOf(t, Member{readme, 1 << 62, one.SHA256})), file(readme, "hi")),
		"size below nothing":  packed(t, file(ManifestName, manifestOf(t, Member{readme, -1, one.SHA256})), file(readme, "hi")),
		"huge checkpoint":     packed(t, file(ManifestName, manifestOf(t, Member{headFile, 1 << 33, one.SHA256})), file(headFile, "hi")),
		"deep manifest":       packed(t, file(ManifestName, deep)),
		"manifest no JSON":    packed(t, file(ManifestName, "{")),
		"manifest of nothing": packed(t, file(ManifestName, "")),
		"keys twice":          packed(t, file(ManifestName, strings.Replace(manifestOf(t), `"format"`, `"format": "x", "format"`, 1))),
		"another format":      packed(t, file(ManifestName, strings.Replace(manifestOf(t), "/v1", "/v2", 1))),
		"manifest too long":   packed(t, file(ManifestName, manifestOf(t)+strings.Repeat(" ", 2<<20))),
		"nothing listed":      packed(t, file(ManifestName, manifestOf(t))),
	} {
		t.Run(name, func(t *testing.T) {
			r, err := w.ofBytes(b)
			if err != nil {
				t.Fatalf("it is an error, not a finding: %v", err)
			}
			if r.Verdict != audit.Fail || r.Findings[0].Code != Malformed {
				t.Fatalf("report %s", r.Text())
			}
		})
	}
}

func TestHostileDirectories(t *testing.T) {
	w := newWorld(t)
	whole := w.make("b", w.options("/a/29"))
	for name, change := range map[string]func(dir string) error{
		"a file more":      func(dir string) error { return os.WriteFile(filepath.Join(dir, "more"), nil, 0o644) },
		"a directory more": func(dir string) error { return os.Mkdir(filepath.Join(dir, "more"), 0o755) },
		"a file less":      func(dir string) error { return os.Remove(filepath.Join(dir, readme)) },
		"a link": func(dir string) error {
			at := filepath.Join(dir, readme)
			return errors.Join(os.Rename(at, filepath.Join(filepath.Dir(dir), "README")), os.Symlink("../README", at))
		},
		"a pipe": func(dir string) error {
			at := filepath.Join(dir, recordsFile)
			return errors.Join(os.Remove(at), unix.Mkfifo(at, 0o644))
		},
		"the manifest a pipe": func(dir string) error {
			at := filepath.Join(dir, ManifestName)
			return errors.Join(os.Remove(at), unix.Mkfifo(at, 0o644))
		},
		"a directory in the place of a file": func(dir string) error {
			at := filepath.Join(dir, headFile)
			return errors.Join(os.Remove(at), os.Mkdir(at, 0o755))
		},
		"longer":           func(dir string) error { return appendTo(filepath.Join(dir, readme), "x") },
		"a sparse monster": func(dir string) error { return os.Truncate(filepath.Join(dir, recordsFile), 1<<40) },
		"manifest gone":    func(dir string) error { return os.Truncate(filepath.Join(dir, ManifestName), 0) },
		"a sparse manifest": func(dir string) error {
			return os.Truncate(filepath.Join(dir, ManifestName), 1<<40)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyDir(t, whole)
			if err := change(dir); err != nil {
				t.Fatal(err)
			}
			if r := w.verify(dir); r.Verdict != audit.Fail {
				t.Fatalf("report %s", r.Text())
			}
		})
	}
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// endless gives as much of one thing as is asked for.
type endless struct{ text string }

func (e endless) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		n += copy(p[n:], e.text)
	}
	return n, nil
}

// TestMemory: members that are longer than memory end in findings, and are never held.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("reads two hundred megabytes")
	}
	w := newWorld(t)
	dir := w.make("b", func() Options { o := w.options("/a/29"); o.Complete = true; return o }())
	m := new(Manifest)
	if err := json.Unmarshal(must[[]byte](t)(os.ReadFile(filepath.Join(dir, ManifestName))), m); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, text string }{
		{recordsFile, "A"}, {recordsFile, evidenceStart}, {keysFile, "\n"}, {leavesFile, "A"}, {rangeFile, "edge \n"},
	} {
		t.Run(fmt.Sprintf("%s of %.10q", c.name, c.text), func(t *testing.T) {
			lie := *m
			lie.Members = append([]Member{}, m.Members...)
			const size = 40 << 20
			var parts []io.Reader
			for i, x := range lie.Members {
				if x.Name == c.name {
					lie.Members[i].Size = size
				}
			}
			head := must[[]byte](t)(lie.marshal())
			parts = append(parts, bytes.NewReader(must[[]byte](t)(header(ManifestName, int64(len(head))))), bytes.NewReader(head), bytes.NewReader(make([]byte, padding(int64(len(head))))))
			for _, x := range lie.Members {
				parts = append(parts, bytes.NewReader(must[[]byte](t)(header(x.Name, x.Size))))
				if x.Name == c.name {
					parts = append(parts, io.LimitReader(endless{c.text}, size))
					break
				}
				parts = append(parts, bytes.NewReader(must[[]byte](t)(os.ReadFile(filepath.Join(dir, x.Name)))), bytes.NewReader(make([]byte, padding(x.Size))))
			}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			r, err := verify(&archive{r: io.MultiReader(parts...), close: func() error { return nil }}, VerifyOptions{Policy: w.policy})
			runtime.ReadMemStats(&after)
			if err != nil || r.Verdict != audit.Fail {
				t.Fatalf("%v, %+v", err, r)
			}
			if held := after.HeapSys - min(before.HeapSys, after.HeapSys); held > 32<<20 {
				t.Fatalf("it took %d MiB of memory", held>>20)
			}
		})
	}
}

// FuzzVerify: whatever an archive holds, there is a report, and it passes only if it is
// the one that was made.
func FuzzVerify(f *testing.F) {
	w := newWorldOf(f, 10)
	o := w.options("/a/7")
	o.Complete, o.Since, o.Until = true, begin.Add(5*time.Second), begin.Add(9*time.Second)
	whole := must[[]byte](f)(os.ReadFile(w.make("b.tar", o)))
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte(ManifestName))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := w.ofBytes(b)
		if err != nil {
			t.Fatal(err)
		}
		if r.Verdict == audit.Pass && !bytes.Equal(b, whole) {
			// A manifest can be made to fit anything that says less.
			if r.Records > 2 {
				t.Fatalf("another bundle passes: %s", r.Text())
			}
		}
		_ = r.Text()
	})
}

// FuzzRange: the member range is refused, or has one spelling.
func FuzzRange(f *testing.F) {
	f.Add("range 0 5\nstream 0 " + strings.Repeat("ab", 32) + " " + strings.Repeat("cd", 16) + " 0 3\n")
	f.Add("range 1 5\nedge " + b64([32]byte{1}) + "\nconsistency " + b64([32]byte{2}) + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		g, err := parseRange(text)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		var b strings.Builder
		fmt.Fprintf(&b, "range %d %d\n", g.First, g.End)
		write := func(tree *record.Tree, consistency [][]byte) {
			for _, h := range tree.Edge() {
				b.WriteString("edge " + b64(h) + "\n")
			}
			for _, h := range consistency {
				b.WriteString("consistency " + b64([32]byte(h)) + "\n")
			}
		}
		write(g.tree, g.consistency)
		for i, s := range g.streams {
			fmt.Fprintf(&b, "stream %d %s %s %d %d\n", i, s.id.Producer, s.id.Incarnation, s.first, s.end)
			if s.end > s.first {
				write(s.tree, s.consistency)
			}
		}
		if b.String() != text {
			t.Fatalf("%q is read as %q", text, b.String())
		}
	})
}

// TestHeader: the header is the one that docs/formats.md describes, whatever made it.
func TestHeader(t *testing.T) {
	want := make([]byte, block)
	put := func(at int, text string) { copy(want[at:], text) }
	put(0, "README.txt")
	put(100, "0000644\x00")
	put(108, "0000000\x00")
	put(116, "0000000\x00")
	put(124, "00000001234\x00")
	put(136, "00000000000\x00")
	put(148, "        ")
	put(156, "0")
	put(257, "ustar\x0000")
	put(329, "0000000\x00")
	put(337, "0000000\x00")
	sum := 0
	for _, c := range want {
		sum += int(c)
	}
	put(148, fmt.Sprintf("%06o\x00 ", sum))
	if got := must[[]byte](t)(header("README.txt", 0o1234)); !bytes.Equal(got, want) {
		t.Fatalf("header\n%q\nwant\n%q", got, want)
	}
}

// inMemory makes an archive of members, with a manifest that fits them.
func inMemory(t testing.TB, m Manifest, files map[string][]byte) []byte {
	m.Members = nil
	var body []byte
	add := func(name string, b []byte) {
		body = append(append(append(body, must[[]byte](t)(header(name, int64(len(b))))...), b...), make([]byte, padding(int64(len(b))))...)
	}
	for _, name := range order() {
		if b, ok := files[name]; ok {
			m.Members = append(m.Members, Member{name, int64(len(b)), fmt.Sprintf("%x", sha256.Sum256(b))})
		}
	}
	add(ManifestName, must[[]byte](t)(m.marshal()))
	for _, x := range m.Members {
		add(x.Name, files[x.Name])
	}
	return append(body, make([]byte, 2*block)...)
}

// FuzzMember: whatever stands in one member, with a manifest that fits it, there is a
// report; and other leaves are never those of the range.
func FuzzMember(f *testing.F) {
	w := newWorldOf(f, 10)
	o := w.options("/a/7")
	o.Complete, o.Since, o.Until = true, begin.Add(5*time.Second), begin.Add(9*time.Second)
	o.Older = must[*policy.Checkpoint](f)(w.policy.Verify(w.checkpoint(20)))
	dir := w.make("b", o)
	m, files := new(Manifest), make(map[string][]byte)
	if err := json.Unmarshal(must[[]byte](f)(os.ReadFile(filepath.Join(dir, ManifestName))), m); err != nil {
		f.Fatal(err)
	}
	for i, name := range order() {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		if files[name] = b; strings.HasSuffix(name, ".evidence") || name == rangeFile || name == leavesFile || name == consistent {
			f.Add(uint8(i), b)
		}
	}
	if r := must[*Report](f)(w.ofBytes(inMemory(f, *m, files))); r.Verdict != audit.Pass {
		f.Fatal(r.Text())
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		name := order()[int(which)%len(order())]
		changed := maps.Clone(files)
		changed[name] = b
		r, err := w.ofBytes(inMemory(t, *m, changed))
		if err != nil {
			t.Fatal(err)
		}
		if name == leavesFile && r.Verdict == audit.Pass && !bytes.Equal(b, files[name]) {
			t.Fatalf("other leaves pass: %s", r.Text())
		}
	})
}
