package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// probe says how fast the disk is at this moment.
type probe struct {
	p50  time.Duration // of one write of 4 KiB with fdatasync into a preallocated file
	rate float64       // of them a second, one after the other
}

// probeDisk measures the disk under dir for a while. Virtual disks change by a
// factor of several within minutes: no figure means anything without it.
func probeDisk(dir string, length time.Duration) (probe, error) {
	const block, size = 4096, 16 << 20
	path := filepath.Join(dir, "probe")
	f, err := os.Create(path)
	if err != nil {
		return probe{}, err
	}
	defer os.Remove(path)
	defer f.Close()
	if _, err := f.Write(make([]byte, size)); err != nil {
		return probe{}, err
	}
	if err := f.Sync(); err != nil {
		return probe{}, err
	}
	data := make([]byte, block)
	var took []time.Duration
	begin := time.Now()
	for at := int64(0); time.Since(begin) < length; at = (at + block) % size {
		start := time.Now()
		if _, err := f.WriteAt(data, at); err != nil {
			return probe{}, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return probe{}, err
		}
		took = append(took, time.Since(start))
	}
	total := time.Since(begin)
	slices.Sort(took)
	return probe{took[len(took)/2], float64(len(took)) / total.Seconds()}, nil
}

// cpuTime is the processor time that a process has used.
func cpuTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name in parentheses may hold spaces; utime and stime are the 12th and
	// 13th fields after it, in hundredths of a second (proc(5)).
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, fmt.Errorf("reading processor time of %d: %d fields", pid, len(f))
	}
	user, err := strconv.Atoi(f[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond, err
}

// peakMemory is the most resident memory that a process had, in bytes.
func peakMemory(pid int) (int64, error) { return memory(pid, "VmHWM:") }

// memory is a line of the status of a process, in bytes.
func memory(pid int, name string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, name); ok {
			kb, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("reading memory of %d: no %s", pid, name)
}

// machine describes where the figures come from.
func machine() string {
	model := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				model = strings.TrimSpace(v)
				break
			}
		}
	}
	return model
}
