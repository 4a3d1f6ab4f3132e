package config

import (
	"strings"
	"testing"
)

const logWithStorage = `log:
  listen: LISTEN
  database: log.db
  key: log.key
  policy: policy.txt
  storage:
`

func TestStorage(t *testing.T) {
	for name, c := range map[string]struct{ listen, storage, want string }{
		"whole": {"127.0.0.1:1", "    trillian: {address: 'localhost:8090', tree_id: 7, postgres: 'postgres://sealtap@db/sealtap', password_file: pw, tls: {ca: ca.pem}}", ""},
		"words": {"127.0.0.1:1", "    trillian: {address: 'localhost:8090', postgres: 'host=db user=sealtap'}", ""},
		"none":  {"127.0.0.1:1", "    {}", "log.storage: it has no section trillian"},
		"password in the URL": {"127.0.0.1:1", "    trillian: {address: 'localhost:8090', postgres: 'postgres://sealtap:secret@db/sealtap'}",
			"config.yaml:7: log.storage.trillian.postgres: a password"},
		"password in the query": {"127.0.0.1:1", "    trillian: {address: 'localhost:8090', postgres: 'postgres://db/sealtap?password=secret'}", "a password"},
		"password in words":     {"127.0.0.1:1", "    trillian: {address: 'localhost:8090', postgres: 'host=db password = secret'}", "a password"},
		"password of the key":   {"127.0.0.1:1", "    trillian: {address: 'localhost:8090', postgres: 'postgres://db/sealtap?sslpassword=secret'}", "a password"},
		"password that breaks the URL": {"127.0.0.1:1", "    trillian: {address: 'localhost:8090', postgres: 'postgres://sealtap:secret%@db/sealtap'}",
			"config.yaml:7: log.storage.trillian.postgres: it is not a URL; write what is special in it as %XX"},
		"no address":         {"127.0.0.1:1", "    trillian: {postgres: 'postgres://db/sealtap'}", "log.storage.trillian.address is required"},
		"no place":           {":8081", "    trillian: {address: 'localhost:8090', postgres: 'postgres://db/sealtap'}", "log.storage.trillian.advertise is required"},
		"place":              {":8081", "    trillian: {address: 'localhost:8090', postgres: 'postgres://db/sealtap', advertise: 'http://one:8081'}", ""},
		"half a certificate": {"127.0.0.1:1", "    trillian: {address: 'localhost:8090', postgres: 'postgres://db/x', tls: {cert: c.pem}}", "cert and key go together"},
		"negative tree":      {"127.0.0.1:1", "    trillian: {address: 'localhost:8090', postgres: 'postgres://db/x', tree_id: -1}", "tree_id: it is a positive number"},
	} {
		_, err := Parse("config.yaml", []byte(strings.Replace(logWithStorage, "LISTEN", "'"+c.listen+"'", 1)+c.storage+"\n"))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		case err != nil && strings.Contains(err.Error(), "secret"):
			t.Errorf("%s: the error shows the password: %v", name, err)
		}
	}
}
