package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/sealtap/sealtap/interop/internal/stack"
)

// idleSpec says which connections to open and to hold.
type idleSpec struct {
	Addr  string
	Conns int
	TLS   bool
}

// perSource is how many connections one address makes: the proxy takes 4096 of a
// client.
const perSource = 4000

const holding = "holding the connections"

// hold opens connections, has one exchange on each of them, says so, and keeps
// them until it is killed.
func hold(s idleSpec) (struct{}, error) {
	const workers = 16
	conns := make([]net.Conn, s.Conns)
	_, err := together(workers, func(w int) ([]time.Duration, error) {
		for i := w; i < s.Conns; i += workers {
			c, err := s.open(i)
			if err != nil {
				return nil, fmt.Errorf("connection %d: %w", i, err)
			}
			conns[i] = c
		}
		return nil, nil
	})
	if err != nil {
		return struct{}{}, err
	}
	fmt.Println(holding)
	var one [1]byte
	_, err = conns[0].Read(one[:])
	return struct{}{}, fmt.Errorf("a connection has ended: %w", err)
}

// open makes a connection that has had its exchange.
func (s idleSpec) open(i int) (net.Conn, error) {
	source := netip.AddrFrom4([4]byte{127, 0, 1, byte(1 + i/perSource)})
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0)), Timeout: 30 * time.Second}
	c, err := d.Dial("tcp", s.Addr)
	if err != nil {
		return nil, err
	}
	if s.TLS {
		c = anyTLS(c)
	}
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	if _, err := c.Write(loadSpec{Addr: s.Addr, Body: 1024}.requests()[0]); err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(c, 2<<10)
	if err := readAnswer(r); err != nil {
		return nil, err
	}
	if r.Buffered() > 0 {
		return nil, errors.New("there is more than an answer")
	}
	return c, c.SetDeadline(time.Time{})
}

// steady waits until the resident memory of a process stands still, and returns
// it, in bytes: the median of the last seconds. Of a process at work it never
// stands quite still.
func steady(ctx context.Context, p *stack.Process) (int64, error) {
	const (
		window = 16
		pause  = 250 * time.Millisecond
		most   = 45 * time.Second // idle connections are kept for two minutes
	)
	var last []int64
	for begin := time.Now(); ; time.Sleep(pause) {
		m, err := memory(p.PID(), "VmRSS:")
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return 0, err
		}
		last = append(last, m)
		if n := len(last); n > 2*window {
			before, now := median(last[n-2*window:n-window]), median(last[n-window:])
			if gap := max(before, now) - min(before, now); gap <= now/100 || time.Since(begin) > most {
				return now, nil
			}
		}
	}
}
