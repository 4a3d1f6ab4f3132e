package proxy

import "net"

// unixPeer is the address of clients on a Unix socket, who have none.
const unixPeer = "unix"

// peerText is the address of a client's connection, as records name it.
func peerText(c net.Conn) string {
	if a := c.RemoteAddr(); a.Network() != "unix" {
		return a.String()
	}
	return unixPeer
}
