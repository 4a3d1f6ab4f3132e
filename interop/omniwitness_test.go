package interop

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// omniwitness runs as a process of its own and is the third witness of a log, as
// litewitness is in TestLitewitnessCosigns.
func TestOmniwitnessCosigns(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "omniwitness")
	cmd := exec.Command("go", "build", "-o", bin, "github.com/transparency-dev/witness/cmd/omniwitness")
	cmd.Dir = "omniwitness"
	if out, err := cmd.CombinedOutput(); err != nil {
		skip(t, fmt.Sprintf("omniwitness cannot be built: %v: %.300s", err, out))
	}
	cosignsOurs(t, func(origin, logKey string) *foreignWitness { return startOmniwitness(t, bin, origin, logKey) })
}

func startOmniwitness(t *testing.T, bin, origin, logKey string) *foreignWitness {
	t.Helper()
	dir := t.TempDir()
	skey, plain, err := note.GenerateKey(rand.Reader, "witness.example/omni")
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := fnote.VKeyToCosignatureV1(plain)
	if err != nil {
		t.Fatal(err)
	}
	key, logs := filepath.Join(dir, "key"), filepath.Join(dir, "logs.yaml")
	if err := os.WriteFile(key, []byte(skey), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(logs, fmt.Appendf(nil, "Logs:\n  - Origin: %s\n    PublicKey: %q\n", origin, logKey), 0o600); err != nil {
		t.Fatal(err)
	}
	addr, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	w := &foreignWitness{name: "omniwitness", bin: bin, vkey: vkey, url: "http://" + addr, args: []string{
		"-listen", addr, "-metrics_listen", "", "-db_file", filepath.Join(dir, "omni.db"), "-private_key_path", key, "-additional_logs", logs,
	}}
	w.start(t)
	return w
}
