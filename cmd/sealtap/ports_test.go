package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
)

// Addresses of tests lie below the ports that systems give to whoever asks for any
// (on Linux from 32768 on): else a connection of another test may take one before
// the program under test does. Behind each lie others, for the witnesses of a log.
const (
	firstPort = 10_000
	lastPort  = 32_000
	portsEach = 16
)

var nextPort = func() *atomic.Uint32 {
	n := new(atomic.Uint32)
	n.Store(rand.Uint32N((lastPort - firstPort) / portsEach))
	return n
}()

// freeAddr returns an address that nobody listens on.
func freeAddr() (string, error) {
	for range 1000 {
		n := nextPort.Add(1) % ((lastPort - firstPort) / portsEach)
		addr := fmt.Sprintf("127.0.0.1:%d", firstPort+n*portsEach)
		l, err := net.Listen("tcp", addr)
		if err == nil {
			return addr, l.Close()
		}
	}
	return "", fmt.Errorf("no port from %d to %d is free", firstPort, lastPort)
}
