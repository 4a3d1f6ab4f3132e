package audit_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealtap/sealtap/record"
)

// TestStranger has evidence verified by a program that shares no line with this
// one: scripts/verify_evidence.py, written from docs/formats.md.
func TestStranger(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3: evidence is not verified by the second implementation")
	}
	x := newExhibit(t)
	good := x.proven.Marshal()
	several := bytes.Clone(good)
	for _, e := range []record.Evidence{
		{Entry: x.entries[0], Log: x.inLog(0), Genesis: x.statement(0)},
		{Entry: x.entries[1], Log: x.inLog(1), Genesis: x.statement(0)},
		{Entry: x.entries[4], Log: x.inLog(4), Genesis: x.statement(0), KeyChange: x.statement(1)},
	} {
		several = append(several, e.Marshal()...)
	}
	files := [][]byte{good, several}
	for i := 0; i < len(good); i += byteStride() {
		for _, mask := range []byte{0x01, 0x20} { // another value, and another case
			bad := bytes.Clone(good)
			bad[i] ^= mask
			files = append(files, bad)
		}
	}
	for n := 0; n < len(good); n += 97 {
		files = append(files, good[:n])
	}
	for i, verdict := range stranger(t, python, x.policy.Marshal(), files) {
		if want := i < 2; verdict != want {
			t.Errorf("file %d (byte %d): accepted: %v", i, (i-2)/2*byteStride(), verdict)
		}
	}

	// What the script refuses is not only what is not well-formed.
	other := newExhibit(t)
	if stranger(t, python, other.policy.Marshal(), files[:1])[0] {
		t.Error("accepted under another log's policy")
	}
	pin := strings.Replace(string(x.policy.Marshal()), x.operator.Public.String(), other.operator.Public.String(), 1)
	if stranger(t, python, []byte(pin), files[:1])[0] {
		t.Error("accepted with another operator pinned")
	}
	// An old beacon of fewer witnesses bounds no time, but is nobody's fault.
	x.p.entries[6] = x.remake(6, beacon(x.checkpoint(5, x.witnesses[0])))
	x.reseal(7, 6)
	if !stranger(t, python, x.policy.Marshal(), [][]byte{x.proven.Marshal()})[0] {
		t.Error("refused for a beacon of an older policy")
	}
}

func byteStride() int {
	if testing.Short() {
		return 61
	}
	return 7
}

// stranger runs the script on all files at once and returns what it accepts.
func stranger(t *testing.T, python string, policy []byte, files [][]byte) []bool {
	t.Helper()
	dir := t.TempDir()
	args := []string{filepath.Join("..", "scripts", "verify_evidence.py"), filepath.Join(dir, "policy.txt")}
	if err := os.WriteFile(args[1], policy, 0o600); err != nil {
		t.Fatal(err)
	}
	for i, text := range files {
		args = append(args, filepath.Join(dir, fmt.Sprint(i)))
		if err := os.WriteFile(args[len(args)-1], text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), python, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(lines) != len(files) || stderr.Len() > 0 {
		t.Fatalf("%v: %d lines for %d files\n%s", err, len(lines), len(files), stderr.Bytes())
	}
	verdicts := make([]bool, len(files))
	for i, line := range lines {
		verdicts[i] = strings.HasPrefix(line, "PASS ")
		if !verdicts[i] && !strings.HasPrefix(line, "FAIL ") {
			t.Fatalf("%q", line)
		}
	}
	if failed := cmd.ProcessState.ExitCode(); (failed == 1) != bytes.Contains(out, []byte("FAIL ")) || failed > 1 {
		t.Errorf("exit code %d", failed)
	}
	return verdicts
}
