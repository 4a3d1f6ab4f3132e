package stack

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Install builds a command of somebody else's on which no module of ours depends, from
// the module proxy, and returns the path of the binary. It is kept in the user's
// cache for the next time.
func Install(module, pkg, version string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	name := filepath.Base(pkg)
	dir := filepath.Join(cache, "sealtap", name+"-"+version)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// One of several programs installs, the others wait.
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	bin, complete := filepath.Join(dir, name), filepath.Join(dir, "complete")
	if _, err := os.Stat(complete); err == nil {
		return bin, nil
	}
	cmd := exec.Command("go", "install", module+pkg+"@"+version)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	cmd.Dir = dir // of no module
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s%s@%s: %w: %s", module, pkg, version, err, out)
	}
	return bin, os.WriteFile(complete, nil, 0o644)
}
