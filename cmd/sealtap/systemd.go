package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// supervisor is who started the process and wants to hear from it (sd_notify(3)).
// Nil is nobody.
type supervisor struct {
	conn     net.Conn
	watchdog time.Duration // longest silence; 0 means that it may last
}

// newSupervisor returns the supervisor that the environment names.
func newSupervisor() (*supervisor, error) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil, nil
	}
	conn, err := net.Dial("unixgram", path) // a name that starts with @ is abstract there too
	if err != nil {
		return nil, usagef("NOTIFY_SOCKET: %w", err)
	}
	s := &supervisor{conn: conn}
	if pid := os.Getenv("WATCHDOG_PID"); pid == "" || pid == strconv.Itoa(os.Getpid()) {
		if usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 48); err == nil && usec > 0 {
			s.watchdog = time.Duration(usec) * time.Microsecond
		}
	}
	return s, nil
}

// say sends a state. A supervisor that cannot be reached notices by itself.
func (s *supervisor) say(state string) {
	if s != nil {
		_, _ = s.conn.Write([]byte(state))
	}
}

func (s *supervisor) close() {
	if s != nil {
		s.conn.Close()
	}
}

// reloading announces a reload, as of now by the clock that supervisors go by.
func (s *supervisor) reloading() {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) == nil {
		s.say(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
	}
}

// beat tells the watchdog that all is well, for as long as no restart would help.
func (s *supervisor) beat(ctx context.Context, alive func() error) {
	if s == nil || s.watchdog == 0 {
		return
	}
	tick := time.NewTicker(max(s.watchdog/2, time.Millisecond))
	defer tick.Stop()
	for {
		if alive == nil || alive() == nil {
			s.say("WATCHDOG=1")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// firstPassed is the number of the first socket that a supervisor passes
// (sd_listen_fds(3)).
const firstPassed = 3

// listenPassed takes a socket that the supervisor listens on, by its name or its
// number. It stays open there when the listener is closed, so that clients wait
// for the next start.
func listenPassed(name string) (net.Listener, error) {
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 1 || os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, fmt.Errorf("no sockets were passed to this process (LISTEN_FDS, LISTEN_PID), so there is no fd:%s", name)
	}
	fd, err := passed(name, n, strings.Split(os.Getenv("LISTEN_FDNAMES"), ":"))
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("taking fd:%s: %w", name, err)
	}
	f := os.NewFile(uintptr(own), "fd:"+name)
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("taking fd:%s: %w", name, err)
	}
	return l, nil
}

// passed finds one of n sockets by its name or number.
func passed(name string, n int, names []string) (int, error) {
	if fd, err := strconv.Atoi(name); err == nil {
		if fd < firstPassed || fd >= firstPassed+n {
			return 0, fmt.Errorf("there is no fd:%d: those that were passed are %d to %d", fd, firstPassed, firstPassed+n-1)
		}
		return fd, nil
	}
	for i := range min(n, len(names)) {
		if names[i] == name {
			return firstPassed + i, nil
		}
	}
	return 0, fmt.Errorf("no socket with the name %q was passed; there are %q", name, names)
}
