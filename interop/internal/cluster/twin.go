package cluster

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage/trillian"
)

// twin makes a log server with a log of its own in a file, which begins with the same
// entry as the one that is shared: given the same, both have to become the same log.
func (c *Cluster) twin(log keys.Public, operator *keys.Private) error {
	genesis, err := record.NewGenesis(log, operator, time.Now())
	if err != nil {
		return err
	}
	const name = "genesis.txt"
	if err := os.WriteFile(filepath.Join(c.Dir, name), []byte(base64.StdEncoding.EncodeToString(genesis)+"\n"), 0o644); err != nil {
		return err
	}
	c.logLines += "  genesis: " + name + "\n"
	var list []*Node
	if err := c.node(&list, c.host); err != nil {
		return err
	}
	c.Twin = list[0]
	return c.writeLog(c.Twin, "twin", "")
}

// Tree says which tree of Trillian it is.
func (c *Cluster) Tree() trillian.Config {
	return trillian.Config{Address: c.Trillian.Address, TreeID: c.tree}
}

// Key loads a key of the cluster: "log", "operator", "w0", "proxy0" and so on.
func (c *Cluster) Key(name string) (*keys.Private, error) { return keys.Load(c.keyFile(name)) }

// Recipient is to whom openings are encrypted.
func (c *Cluster) Recipient() (age.Recipient, error) {
	r, err := age.ParseX25519Recipient(c.recipient)
	if err != nil {
		return nil, fmt.Errorf("reading the recipient of openings: %w", err)
	}
	return r, nil
}
