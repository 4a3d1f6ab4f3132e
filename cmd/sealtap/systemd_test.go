package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// supervised ADDR NAME CONFIG runs a proxy as systemd would, on a socket of that name.
func supervised(ts *testscript.TestScript, neg bool, args []string) {
	l, err := net.Listen("tcp", args[0])
	ts.Check(err)
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	ts.Check(err)
	defer socket.Close()
	// The name of a socket is short, the script's directory may not be.
	dir, err := os.MkdirTemp("", "notify")
	ts.Check(err)
	defer os.RemoveAll(dir)
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/n", Net: "unixgram"})
	ts.Check(err)
	defer notify.Close()
	hear := func(want ...string) {
		ts.Check(notify.SetReadDeadline(time.Now().Add(30 * time.Second)))
		for i, buf := 0, make([]byte, 4096); i < len(want); {
			n, err := notify.Read(buf)
			if err != nil {
				ts.Fatalf("waiting for %s: %v", want[i], err)
			}
			if strings.HasPrefix(string(buf[:n]), want[i]) {
				i++
			}
		}
	}

	cmd := command(ts, "sealtap", "proxy", "--config", args[2])
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path, err = exec.LookPath("sh")
	ts.Check(err)
	cmd.Env = append(cmd.Env, "LISTEN_FDS=1", "LISTEN_FDNAMES="+args[1], "NOTIFY_SOCKET="+dir+"/n", "WATCHDOG_USEC=100000")
	cmd.ExtraFiles = []*os.File{socket}
	var said strings.Builder
	cmd.Stderr = &said
	ts.Check(cmd.Start())
	defer func() { _ = cmd.Process.Kill() }()

	hear("READY=1", "WATCHDOG=1", "WATCHDOG=1")
	res, err := http.Get("http://" + args[0] + "/")
	ts.Check(err)
	_, err = io.Copy(io.Discard, res.Body)
	ts.Check(err)
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		ts.Fatalf("%s", res.Status)
	}
	ts.Check(cmd.Process.Signal(syscall.SIGHUP))
	hear("RELOADING=1\nMONOTONIC_USEC=", "READY=1")
	ts.Check(cmd.Process.Signal(syscall.SIGTERM))
	hear("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		ts.Fatalf("%v: %s", err, said.String())
	}
	// The socket is still there, for the next start.
	c, err := net.Dial("tcp", args[0])
	ts.Check(err)
	c.Close()
}

func TestPassed(t *testing.T) {
	names := []string{"front", "admin"}
	for name, want := range map[string]int{"front": 3, "admin": 4, "3": 3, "4": 4, "5": 0, "2": 0, "0": 0, "-1": 0, "other": 0, "": 0} {
		if fd, err := passed(name, 2, names); fd != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", name, fd, err)
		}
	}
	if fd, err := passed("admin", 1, names); err == nil {
		t.Errorf("a name without a socket: %d", fd)
	}
}
