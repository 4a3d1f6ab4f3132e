package config

import (
	"fmt"
	"net"
)

// Witness configures one witness.
type Witness struct {
	Name           string        `yaml:"name"`             // tells the witnesses of one file apart
	Listen         string        `yaml:"listen"`           // required
	Database       Path          `yaml:"database"`         // SQLite file; required
	Key            Path          `yaml:"key"`              // required
	PostQuantumKey Path          `yaml:"post_quantum_key"` // signs beside key
	Logs           []VKey        `yaml:"logs"`             // verifier keys of the logs that it cosigns; required
	Limits         WitnessLimits `yaml:"limits"`
	Bastions       []Bastion     `yaml:"bastions"` // that it dials, to be reachable through them
}

// Bastion is a C2SP https-bastion that a witness dials.
type Bastion struct {
	Address string `yaml:"address"` // host:port of its backend endpoint; required
	CA      Path   `yaml:"ca"`      // roots for its certificate; default: the system's
	Key     Path   `yaml:"key"`     // Ed25519, known to the bastion; default: the witness's
}

// WitnessLimits bound what each log may ask of a witness.
type WitnessLimits struct {
	RequestsPerSecond Count `yaml:"requests_per_second"` // 0 means 100
	Burst             Count `yaml:"burst"`               // at once; 0 means twice requests_per_second
}

const defaultRequests = 100

// Rate returns the limits with their defaults.
func (l WitnessLimits) Rate() (perSecond float64, burst int) {
	n := l.RequestsPerSecond
	if n == 0 {
		n = defaultRequests
	}
	if l.Burst == 0 {
		return float64(n), int(2 * n)
	}
	return float64(n), int(l.Burst)
}

// resolve makes paths independent of the working directory.
func (w *Witness) resolve(at func(...*Path)) {
	at(&w.Database, &w.Key, &w.PostQuantumKey)
	for i := range w.Bastions {
		at(&w.Bastions[i].CA, &w.Bastions[i].Key)
	}
}

// witnesses checks what each of them needs.
func (c *checker) witnesses(list []Witness) {
	names := make(map[string]bool)
	for i, w := range list {
		section := fmt.Sprintf("witnesses.[%d]", i)
		c.needed(section, need{"name", w.Name != ""}, need{"listen", w.Listen != ""}, need{"database", w.Database != ""},
			need{"key", w.Key != ""}, need{"logs", len(w.Logs) > 0})
		c.address(section+".listen", w.Listen)
		if names[w.Name] {
			c.fail(section+".name", ": %q is taken", w.Name)
		}
		names[w.Name] = true
		c.bastions(section, w.Bastions)
		given := make(map[string]bool)
		for n, k := range w.Logs {
			if given[k.String()] {
				c.fail(fmt.Sprintf("%s.logs.[%d]", section, n), ": the key of %s is given twice", k.Name)
			}
			given[k.String()] = true
		}
	}
}

// bastions checks the bastions of one witness.
func (c *checker) bastions(section string, list []Bastion) {
	given := make(map[string]bool)
	for i, b := range list {
		key := fmt.Sprintf("%s.bastions.[%d].address", section, i)
		host, port, err := net.SplitHostPort(b.Address)
		switch {
		case err != nil || host == "" || port == "":
			c.fail(key, ": %q is not host:port of a bastion, such as bastion.example.org:443", b.Address)
		case given[b.Address]:
			c.fail(key, ": %s is given twice", b.Address)
		}
		given[b.Address] = true
	}
}
