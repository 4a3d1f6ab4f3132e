package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"time"
)

// loadSpec says what a load generator does.
type loadSpec struct {
	Addr     string
	Conns    int
	Warmup   time.Duration
	Duration time.Duration
	Rate     float64 // requests a second over all connections; 0: as fast as the answers come
	Body     int     // bytes of a POST; 0: a GET
	Tree     uint64  // if not 0: GET inclusion proofs of random indices below it
	Path     string  // if not empty: GET it
	Tiles    uint64  // if not 0: GET random complete tiles of level 0, of which there are so many
	TLS      bool    // with whatever certificate
}

// loadResult counts the requests that were answered within the duration.
type loadResult struct {
	Requests int
	Seconds  float64
	P50, P99 time.Duration
}

func (r loadResult) rate() float64 { return float64(r.Requests) / r.Seconds }

// requests prepares what one connection sends in turn.
func (s loadSpec) requests() [][]byte {
	if s.Tree > 0 {
		list := make([][]byte, 512)
		for i := range list {
			list[i] = fmt.Appendf(nil, "GET /v1/proof/inclusion?index=%d HTTP/1.1\r\nHost: %s\r\n\r\n", rand.Uint64N(s.Tree), s.Addr)
		}
		return list
	}
	if s.Tiles > 0 {
		list := make([][]byte, 512)
		for i := range list {
			list[i] = fmt.Appendf(nil, "GET /%s HTTP/1.1\r\nHost: %s\r\n\r\n", tilePath(rand.Uint64N(s.Tiles)), s.Addr)
		}
		return list
	}
	if s.Path != "" {
		return [][]byte{fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", s.Path, s.Addr)}
	}
	if s.Body == 0 {
		return [][]byte{fmt.Appendf(nil, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", s.Addr)}
	}
	head := fmt.Sprintf("POST /orders/42 HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", s.Addr, s.Body)
	return [][]byte{append([]byte(head), bytes.Repeat([]byte("x"), s.Body)...)}
}

// load drives a server from keep-alive connections, each of which waits for its
// answer. It is as small as it can be, because it shares the processors with
// what it measures.
func load(s loadSpec) (loadResult, error) {
	begin := time.Now().Add(s.Warmup)
	end := begin.Add(s.Duration)
	type part struct {
		took []time.Duration
		err  error
	}
	parts := make(chan part, s.Conns)
	for i := range s.Conns {
		go func() {
			took, err := drive(s, i, begin, end)
			parts <- part{took, err}
		}()
	}
	var all []time.Duration
	var err error
	for range s.Conns {
		p := <-parts
		all, err = append(all, p.took...), errors.Join(err, p.err)
	}
	if err != nil {
		return loadResult{}, err
	}
	if len(all) == 0 {
		return loadResult{}, errors.New("no request was answered")
	}
	slices.Sort(all)
	return loadResult{Requests: len(all), Seconds: s.Duration.Seconds(), P50: all[len(all)/2], P99: all[len(all)*99/100]}, nil
}

// anyTLS speaks TLS with a server of this run, to which nothing secret is said.
func anyTLS(c net.Conn) net.Conn {
	return tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
}

func drive(s loadSpec, i int, begin, end time.Time) ([]time.Duration, error) {
	c, err := net.Dial("tcp", s.Addr)
	if err != nil {
		return nil, err
	}
	if s.TLS {
		c = anyTLS(c)
	}
	defer c.Close()
	if err := c.SetDeadline(end.Add(20 * time.Second)); err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(c, 16<<10)
	list := s.requests()
	took := make([]time.Duration, 0, 1<<14)
	var period time.Duration
	next := time.Now()
	if s.Rate > 0 {
		period = time.Duration(float64(s.Conns) / s.Rate * float64(time.Second))
		next = next.Add(period * time.Duration(i) / time.Duration(s.Conns))
	}
	for n := 0; ; n++ {
		if period > 0 {
			time.Sleep(time.Until(next))
			next = next.Add(period)
		}
		start := time.Now()
		if !start.Before(end) {
			return took, nil
		}
		if _, err := c.Write(list[n%len(list)]); err != nil {
			return nil, err
		}
		if err := readAnswer(r); err != nil {
			return nil, fmt.Errorf("request %d of connection %d: %w", n, i, err)
		}
		done := time.Now()
		if !start.Before(begin) && !done.After(end) {
			took = append(took, done.Sub(start))
		}
	}
}

// readAnswer reads one answer, which has to be a 200.
func readAnswer(r *bufio.Reader) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if len(line) < 12 || string(line[9:12]) != "200" {
		first := string(line)
		rest, _ := r.Peek(r.Buffered())
		return fmt.Errorf("answer %q %q", first, rest)
	}
	return skipMessage(r)
}

// skipMessage reads headers and body.
func skipMessage(r *bufio.Reader) error {
	length, chunked := 0, false
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if v, ok := header(line, "content-length"); ok {
			if length, err = strconv.Atoi(string(v)); err != nil {
				return err
			}
		}
		if v, ok := header(line, "transfer-encoding"); ok {
			chunked = string(v) == "chunked"
		}
	}
	if !chunked {
		_, err := r.Discard(length)
		return err
	}
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 16, 31)
		if err != nil {
			return err
		}
		if _, err := r.Discard(int(n) + 2); err != nil || n == 0 {
			return err
		}
	}
}

// header returns the value of a header line if it has the name, which is given in
// lower case.
func header(line []byte, name string) ([]byte, bool) {
	if len(line) < len(name)+1 || line[len(name)] != ':' || !bytes.EqualFold(line[:len(name)], []byte(name)) {
		return nil, false
	}
	return bytes.TrimSpace(line[len(name)+1:]), true
}

// serveUpstream answers every request with 1 KiB.
func serveUpstream(ln net.Listener) error {
	answer := append([]byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\r\n"), bytes.Repeat([]byte("y"), 1024)...)
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			r := bufio.NewReaderSize(c, 16<<10)
			for {
				if _, err := r.ReadSlice('\n'); err != nil {
					return // the proxy closed the connection, which ends it
				}
				if skipMessage(r) != nil {
					return
				}
				if _, err := c.Write(answer); err != nil {
					return
				}
			}
		}()
	}
}
