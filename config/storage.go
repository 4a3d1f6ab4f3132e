package config

import (
	"net"
	"net/url"
	"strings"
)

// Storage says where the log is kept; without it in the SQLite file.
type Storage struct {
	Trillian *Trillian `yaml:"trillian"`
}

// Trillian keeps the log in Trillian and PostgreSQL, which several log servers can
// share.
type Trillian struct {
	Address      string `yaml:"address"`       // of Trillian's log server, host:port; required
	TreeID       Tree   `yaml:"tree_id"`       // sealtap log init makes the tree
	Postgres     string `yaml:"postgres"`      // connection string of the database, without a password; required
	PasswordFile Path   `yaml:"password_file"` // holds the password to PostgreSQL
	Advertise    URL    `yaml:"advertise"`     // where other servers of the log reach this one; empty means http://LISTEN
	TLS          *RPC   `yaml:"tls"`           // to Trillian; without it plain text
}

// RPC configures TLS to a server.
type RPC struct {
	CA   Path `yaml:"ca"`   // roots that the server's certificate is verified with; empty means the system's
	Cert Path `yaml:"cert"` // of this client
	Key  Path `yaml:"key"`
}

// Tree is the id of a tree.
type Tree int64

// storage checks where the log is kept.
func (c *checker) storage(l *Log) {
	if l.Storage == nil {
		return
	}
	t := l.Storage.Trillian
	if t == nil {
		c.fail("log.storage", ": it has no section trillian; leave it out to keep the log in the file of log.database")
		return
	}
	const section = "log.storage.trillian"
	c.needed(section, need{"address", t.Address != ""}, need{"postgres", t.Postgres != ""})
	c.address(section+".address", t.Address)
	switch {
	case isURL(t.Postgres) && !parses(t.Postgres):
		c.fail(section+".postgres", ": it is not a URL; write what is special in it as %%XX")
	case hasPassword(t.Postgres):
		c.fail(section+".postgres", ": a password does not belong into the configuration: put it into a file, and name that with password_file")
	}
	if t.TreeID < 0 {
		c.fail(section+".tree_id", ": it is a positive number")
	}
	c.url(section+".advertise", t.Advertise)
	if host, _, err := net.SplitHostPort(l.Listen); err == nil && t.Advertise.URL == nil && (host == "" || net.ParseIP(host).IsUnspecified()) {
		c.fail(section+".advertise", " is required, as other servers cannot tell from log.listen where this one is")
	}
	if t.TLS != nil && (t.TLS.Cert == "") != (t.TLS.Key == "") {
		c.fail(section+".tls", ": cert and key go together")
	}
}

// isURL reports whether a connection string of PostgreSQL is a URL, rather than words.
func isURL(s string) bool {
	return strings.HasPrefix(s, "postgres://") || strings.HasPrefix(s, "postgresql://")
}

func parses(s string) bool {
	_, err := url.Parse(s)
	return err == nil
}

// hasPassword reports whether a connection string has a password in it.
func hasPassword(s string) bool {
	if u, err := url.Parse(s); err == nil && isURL(s) {
		_, set := u.User.Password()
		return set || u.Query().Has("password") || u.Query().Has("sslpassword")
	}
	return strings.Contains(strings.ReplaceAll(s, " ", ""), "password=")
}

func (s *Storage) resolve(at func(...*Path)) {
	if s == nil || s.Trillian == nil {
		return
	}
	at(&s.Trillian.PasswordFile)
	if t := s.Trillian.TLS; t != nil {
		at(&t.CA, &t.Cert, &t.Key)
	}
}
