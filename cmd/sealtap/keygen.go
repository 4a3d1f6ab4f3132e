package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/keys"
)

func newKeygen() *cobra.Command {
	var out string
	var cosigner, quantum, authority bool
	var permit []string
	var days int
	cmd := &cobra.Command{
		Use:   "keygen NAME",
		Short: "Make a signing key and print its verifier key",
		Long: `Makes a new Ed25519 key named NAME, writes it to a file that only you can read, and
prints its verifier key (C2SP signed-note vkey), which is public. The name of a log's
key is the log's origin, such as log.example.com/audit. A key has one role: make another
one for every proxy, log, witness and operator.

With --post-quantum it is an ML-DSA-44 key (signature type 0x06) that a log or a witness holds
beside its Ed25519 key, under the same NAME: post_quantum_key in the configuration.

With --ca it is a certificate authority for proxy.forward.intercept, in PEM: the key in
FILE, the certificate in FILE with .crt in the place of .key. Clients that trust it let the
proxy read what they say to any host, or with --permit to those in the domains given.
Keep its key as you would the passwords of all of them: docs/deploy.md.`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t := keys.Ed25519
			switch {
			case authority && (cosigner || quantum):
				return usagef("--ca makes an authority and no signing key: say one of them")
			case authority:
				return makeAuthority(cmd.ErrOrStderr(), args[0], out, permit, days)
			case permit != nil || cmd.Flags().Changed("days"):
				return usagef("--permit and --days are for --ca")
			case quantum:
				t = keys.MLDSA44
			case cosigner:
				t = keys.Cosignature
			}
			k, err := keys.Generate(args[0], t)
			if err != nil {
				return err
			}
			if out == "" {
				out = fileName(args[0]) + ".key"
				if quantum { // it has the name of another key
					out = fileName(args[0]) + ".post-quantum.key"
				}
			}
			if err := k.Save(out); errors.Is(err, fs.ErrExist) {
				return usagef("%s exists: a key is never overwritten; say --out FILE", out)
			} else if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "wrote the signing key to %s and the verifier key to %s.pub\n", out, out)
			fmt.Fprintln(cmd.OutOrStdout(), k.Public)
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "`FILE` for the signing key (default NAME.key, NAME.post-quantum.key or NAME.ca.key, with / as -)")
	cmd.Flags().BoolVar(&authority, "ca", false, "make a certificate authority for interception")
	cmd.Flags().StringArrayVar(&permit, "permit", nil, "`DOMAIN` that the authority is good for; again for more (with --ca)")
	cmd.Flags().IntVar(&days, "days", 730, "how long the authority is valid (with --ca)")
	cmd.Flags().BoolVar(&cosigner, "witness", false, "make a witness's key (signature type 0x04)")
	cmd.Flags().BoolVar(&quantum, "post-quantum", false, "make the second key of a log or a witness, ML-DSA-44 (signature type 0x06)")
	return cmd
}

// fileName makes a key's name fit for a file.
func fileName(name string) string {
	b := []rune(name)
	for i, r := range b {
		if r == '/' || r == '\\' || r == ':' || i == 0 && r == '.' {
			b[i] = '-'
		}
	}
	return string(b)
}
