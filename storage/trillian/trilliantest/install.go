package trilliantest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Install builds foreign programs from the module proxy, by go install with the
// arguments, and returns the directory of the binaries. It is kept under a name in the
// user's cache for the next time.
func Install(name string, args ...string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "sealtap", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// One of the programs that run side by side installs, the others wait.
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	complete := filepath.Join(dir, "complete")
	if _, err := os.Stat(complete); err == nil {
		return dir, nil
	}
	cmd := exec.Command("go", append([]string{"install"}, args...)...)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	cmd.Dir = dir // of no module
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install of %s: %w\n%s", name, err, out)
	}
	return dir, os.WriteFile(complete, nil, 0o644)
}
