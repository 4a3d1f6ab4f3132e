package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/bastion"
)

// lifeTime is after how long a copy of a witness's database, put back in its place,
// is known for one.
const lifeTime = 10 * time.Minute

func newWitness() *cobra.Command {
	var name string
	cmd := daemon("witness", "Run one witness", `Runs one witness of the configuration: the one that is there, or the one that --name names.

SIGHUP, or a change of the file, has it take up the logs, their keys and the limits that the file
then says. A file that is bad, or that changes more than those, changes nothing.`,
		func(ctx context.Context, f *config.File, logger *slog.Logger) (string, *service, error) {
			w, err := witnessSection(f, name)
			if err != nil {
				return "", nil, err
			}
			s, err := startWitness(ctx, w, logger)
			return "witness " + w.Name, s, err
		})
	cmd.Flags().StringVar(&name, "name", "", "which witness of the file")
	cmd.AddCommand(newWitnessRecover())
	return cmd
}

// witnessSection finds the witness of a file that a name names, "" for the only one.
func witnessSection(f *config.File, name string) (config.Witness, error) {
	for _, w := range f.Witnesses {
		if w.Name == name || name == "" && len(f.Witnesses) == 1 {
			return w, nil
		}
	}
	if name == "" && len(f.Witnesses) > 1 {
		return config.Witness{}, usagef("%s has %d witnesses: say --name", f.Path, len(f.Witnesses))
	}
	return config.Witness{}, usagef("%s has no witness %s", f.Path, name)
}

// witnessKeys are the keys of one witness.
type witnessKeys struct {
	key     *keys.Private
	quantum *keys.Private // nil without one
}

// public returns the public keys.
func (k witnessKeys) public() []keys.Public {
	if k.quantum == nil {
		return []keys.Public{k.key.Public}
	}
	return []keys.Public{k.key.Public, k.quantum.Public}
}

// same reports whether two witnesses sign with the same keys.
func (k witnessKeys) same(other witnessKeys) bool {
	return slices.EqualFunc(k.public(), other.public(), func(a, b keys.Public) bool { return a.String() == b.String() })
}

func readWitnessFiles(c config.Witness) (k witnessKeys, err error) {
	about := "witness " + c.Name + ": "
	if k.key, err = keys.Load(string(c.Key)); err != nil {
		return k, usagef("%skey: %w", about, err)
	}
	if t := k.key.Type; t != keys.Cosignature && t != keys.MLDSA44 {
		return k, usagef("%skey: %s holds a key of signature type 0x%02x, 0x04 or 0x06 is wanted (sealtap keygen --witness)", about, c.Key, byte(t))
	}
	if c.PostQuantumKey == "" {
		return k, nil
	}
	if k.quantum, err = loadKey(about+"post_quantum_key", string(c.PostQuantumKey), keys.MLDSA44); err != nil {
		return k, err
	}
	if k.key.Type == keys.MLDSA44 {
		return k, usagef("%spost_quantum_key: key is one of type 0x06 already; one will do", about)
	}
	return k, nil
}

// startWitness opens a witness.
func startWitness(ctx context.Context, c config.Witness, logger *slog.Logger) (*service, error) {
	key, err := readWitnessFiles(c)
	if err != nil {
		return nil, err
	}
	logger = logger.With("component", "witness", "name", c.Name)
	bastions, err := witnessBastions(c, key.key, logger)
	if err != nil {
		return nil, err
	}
	ln, err := listen("witness "+c.Name, c.Listen)
	if err != nil {
		return nil, err
	}
	store, err := sqlite.OpenWitness(ctx, string(c.Database))
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	if _, err := store.BeginLife(ctx); err != nil {
		return nil, errors.Join(err, ln.Close(), store.Close())
	}
	w, err := witness.New(ctx, witness.Config{Key: key.key, PostQuantumKey: key.quantum, Logs: witnessLogs(c), Rate: witnessRate(c), Bastions: bastions, Store: store, Logger: logger})
	if err != nil {
		return nil, errors.Join(err, ln.Close(), store.Close())
	}
	life := &witnessLife{server: w, config: c, keys: key, log: logger}
	return &service{
		addr: ln.Addr().String(),
		run: func(ctx context.Context) error {
			return together(ctx, func(ctx context.Context) error { return w.Serve(ctx, ln) },
				func(ctx context.Context) error {
					w.ServeBastions(ctx)
					return nil
				},
				func(ctx context.Context) error {
					store.KeepLife(ctx, lifeTime, func(err error) { logger.Error("a copy of the database could not be told from it", "err", err) })
					return nil
				})
		},
		close:  store.Close,
		reload: life.reload,
	}, nil
}

// witnessBastions returns the bastions that a witness dials.
func witnessBastions(c config.Witness, key *keys.Private, logger *slog.Logger) ([]*bastion.Bastion, error) {
	var list []*bastion.Bastion
	for i, x := range c.Bastions {
		about := fmt.Sprintf("witness %s: bastions.[%d]", c.Name, i)
		bc := bastion.Config{Address: x.Address, Key: key, Logger: logger}
		var err error
		if x.Key != "" {
			if bc.Key, err = keys.Load(string(x.Key)); err != nil {
				return nil, usagef("%s.key: %w", about, err)
			}
		}
		if x.CA != "" {
			pem, err := os.ReadFile(string(x.CA))
			if err != nil {
				return nil, usagef("%s.ca: %w", about, err)
			}
			if bc.Roots = x509.NewCertPool(); !bc.Roots.AppendCertsFromPEM(pem) {
				return nil, usagef("%s.ca: %s holds no certificate", about, x.CA)
			}
		}
		b, err := bastion.New(bc)
		if errors.Is(err, keys.ErrNotEd25519) {
			return nil, usagef("%s: %w: name one in its key (sealtap keygen --witness NAME)", about, err)
		}
		if err != nil {
			return nil, usagef("%s: %w", about, err)
		}
		logger.Info("dialling a bastion, whose operator allows key_hash", "bastion", x.Address, "key_hash", b.KeyHash())
		list = append(list, b)
	}
	return list, nil
}

// witnessLogs returns the keys of each log.
func witnessLogs(c config.Witness) map[string][]keys.Public {
	logs := make(map[string][]keys.Public)
	for _, k := range c.Logs {
		logs[k.Name] = append(logs[k.Name], k.Public)
	}
	return logs
}

func witnessRate(c config.Witness) witness.Rate {
	perSecond, burst := c.Limits.Rate()
	return witness.Rate{PerSecond: perSecond, Burst: burst}
}

// witnessLife is one witness while it runs, with the configuration at work.
type witnessLife struct {
	server *witness.Server
	config config.Witness
	keys   witnessKeys
	log    *slog.Logger
}

// reload has the logs and limits that are in the file now take effect, or changes
// nothing.
func (l *witnessLife) reload(ctx context.Context, path string) (err error) {
	defer func() {
		l.server.Reloaded(err == nil)
		if err != nil {
			l.log.Error("the configuration was not reloaded, the one before stays", "error", err)
		}
	}()
	f, err := config.Load(path)
	if err != nil {
		return err
	}
	c, err := witnessSection(f, l.config.Name)
	if err != nil {
		return err
	}
	key, err := readWitnessFiles(c)
	if err != nil {
		return err
	}
	for _, k := range []struct {
		key  string
		same bool
	}{
		{"listen", c.Listen == l.config.Listen},
		{"database", c.Database == l.config.Database},
		{"bastions", slices.Equal(c.Bastions, l.config.Bastions)},
		{"a key", key.same(l.keys)},
	} {
		if !k.same {
			return usagef("%s: witness %s: %s cannot change while the witness runs: restart the witness", path, c.Name, k.key)
		}
	}
	if err := l.server.SetLogs(ctx, witnessLogs(c)); err != nil {
		return err
	}
	l.server.SetRate(witnessRate(c))
	l.config = c
	l.log.Info("configuration reloaded", "file", path, "logs", len(witnessLogs(c)))
	return nil
}
