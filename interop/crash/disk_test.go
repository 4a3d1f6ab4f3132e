package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sealtap/sealtap/interop/internal/producer"
)

const (
	diskSize = 40 << 20
	// The WAL is copied into the database every 16 MiB; the disk is full before
	// that, with the whole of the log in the WAL.
	diskFree = 4 << 20
)

// mount mounts, and unmounts at the end of the test. A test cannot do without.
func mount(t *testing.T, source, target, fstype string, flags uintptr, data string) (unmount func()) {
	t.Helper()
	err := syscall.Mount(source, target, fstype, flags, data)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		t.Skipf("this user may not mount a file system: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	done := false
	unmount = func() {
		if done {
			return
		}
		done = true
		if err := syscall.Unmount(target, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(unmount)
	return unmount
}

// ready asks /readyz.
func (w *world) ready() (ok bool, detail string) {
	resp, err := http.Get(w.url + "/readyz")
	if err != nil {
		return false, err.Error()
	}
	defer resp.Body.Close()
	var p struct{ Detail string }
	if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
		w.t.Error(err)
	}
	return resp.StatusCode == http.StatusOK, p.Detail
}

// post submits once, and returns the status and Retry-After.
func (w *world) post(p *producer.Producer) (status int, retry string) {
	w.t.Helper()
	req, err := p.Next(3, producer.Request("/"+strings.Repeat("y", 20000)))
	w.check(err)
	body, err := proto.Marshal(req)
	w.check(err)
	resp, err := http.Post(w.url+"/v1/entries", "application/x-protobuf", bytes.NewReader(body))
	w.check(err)
	defer resp.Body.Close()
	return resp.StatusCode, resp.Header.Get("Retry-After")
}

// The disk fills up under load. Submissions are told to come back, /readyz says
// why, and once there is room the log goes on by itself with everything that was
// acknowledged.
func TestDiskFull(t *testing.T) {
	if testing.Short() {
		t.Skip("fills a disk, which takes some seconds")
	}
	disk := t.TempDir()
	mount(t, "tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0755", diskSize))
	filler := filepath.Join(disk, "filler")
	w := newWorld(t, bin, 4, map[string]string{"log.database": filepath.Join(disk, "log.db")})
	w.check(os.WriteFile(filler, make([]byte, diskSize-diskFree), 0o600))
	w.startWitnesses()
	w.startLog("")
	stop := w.load()

	full := func(what string, ok func() bool) {
		t.Helper()
		w.check(w.log.Await(what, patience, ok))
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	full("an answer for the time when the disk is full", func() bool {
		if len(w.producers[0].Entries) == 0 {
			return false
		}
		ok, detail := w.ready()
		return !ok && (strings.Contains(detail, "full") || strings.Contains(detail, "no space"))
	})
	w.check(stop())
	// Now the disk has no room for anything at all.
	spare := filepath.Join(disk, "spare")
	f, err := os.Create(spare)
	w.check(err)
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()
	unready := 0
	for range 20 {
		if status, retry := w.post(w.producers[0]); status != http.StatusServiceUnavailable || retry == "" {
			t.Errorf("on a full disk a submission is answered with %d, Retry-After %q", status, retry)
		}
		// It loads itself again between two attempts, and is ready until the next one.
		if ok, _ := w.ready(); !ok {
			unready++
		}
		w.look(ctx)
		time.Sleep(50 * time.Millisecond)
	}
	if unready == 0 {
		t.Error("on a full disk the log always says that it is ready")
	}
	if !running(w.log) {
		t.Fatalf("on a full disk the log ends: %s", w.log.Output())
	}
	w.check(errors.Join(os.Remove(spare), os.Remove(filler)))
	w.settle()
	w.check(w.verify())
	w.check(w.log.Await("readiness", patience, func() bool { ok, _ := w.ready(); return ok }))
	w.log.Kill()
	w.startWitnesses()
	w.startLog("")
	w.settle()
	w.check(w.verify())
}

// The directory becomes read-only while the log runs, as after an error of the file
// system. What cannot be kept is not signed; what was acknowledged stays; and the
// log goes on when it can. It does not start on such a directory.
func TestReadOnlyDirectory(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a log for some seconds")
	}
	disk := t.TempDir()
	w := newWorld(t, bin, 4, map[string]string{"log.database": filepath.Join(disk, "log.db")})
	w.startWitnesses()
	w.startLog("")
	stop := w.load()
	w.check(w.log.Await("some entries", patience, func() bool { return w.heads.newestSize() > 200 }))

	writable := mount(t, disk, disk, "", syscall.MS_BIND, "")
	w.check(syscall.Mount("", disk, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""))
	w.check(w.log.Await("its word on /readyz", patience, func() bool {
		ok, detail := w.ready()
		return !ok && strings.Contains(detail, "read-only")
	}))
	shown := w.heads.newestSize()
	time.Sleep(200 * time.Millisecond)
	if now := w.heads.newestSize(); now != shown {
		t.Errorf("a head of size %d is shown, which cannot have been kept; before it was %d", now, shown)
	}
	writable()
	w.check(w.log.Await("readiness", patience, func() bool { ok, _ := w.ready(); return ok }))
	w.check(stop())
	w.settle()
	w.check(w.verify())
	w.log.Kill()

	writable = mount(t, disk, disk, "", syscall.MS_BIND, "")
	w.check(syscall.Mount("", disk, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""))
	p, err := w.start(nil, "log")
	w.check(err)
	<-p.Done()
	if out := p.Output(); p.ExitCode() == 0 || !strings.Contains(out, "read-only") || strings.Contains(out, "goroutine") {
		t.Errorf("on a read-only directory the log ends with %d: %s", p.ExitCode(), out)
	}
	writable()
	w.startLog("")
	w.settle()
	w.check(w.verify())
}
