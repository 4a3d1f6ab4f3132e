package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealtap/sealtap/interop/internal/stack"
)

// What may grow after the first quarter of the time, which is for warming up:
// between the medians of the second quarter and of the last.
const (
	memoryNoise   = 64 << 20 // bytes of one process: the log holds the newest 65,536 entries of the index
	memoryAnHour  = 96 << 20 // bytes of one process: caches fill with the log
	descriptors   = 16       // of one process
	diskPerRecord = 1.25     // times
	diskLag       = 48 << 20 // bytes: the WAL is copied into the database now and then
)

// sample is what everything takes at one moment.
type sample struct {
	after   time.Duration
	records uint64
	disk    int64   // of log, openings and index
	memory  []int64 // resident, of each part
	open    []int   // descriptors, of each part
}

func take(s *stack.Stack, parts []part, after time.Duration) (sample, error) {
	one := sample{after: after}
	var err error
	if one.records, err = published(s); err != nil {
		return one, err
	}
	if one.disk, err = used(s.Dir); err != nil {
		return one, err
	}
	for _, p := range parts {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
		if err != nil {
			return one, fmt.Errorf("%s has ended: %w: %s", p.name, err, p.Output())
		}
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID()))
		if err != nil {
			return one, err
		}
		one.memory, one.open = append(one.memory, resident(status)), append(one.open, len(fds))
	}
	return one, nil
}

// resident reads VmRSS of proc(5).
func resident(status []byte) int64 {
	for line := range bytes.Lines(status) {
		if f := strings.Fields(string(line)); len(f) == 3 && f[0] == "VmRSS:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err == nil {
				return kib << 10
			}
		}
	}
	return 0
}

// used is the disk that the log's files take. The WAL, which comes and goes, is
// left out.
func used(dir string) (total int64, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "log.db*"))
	for _, n := range names {
		if strings.HasSuffix(n, "-wal") || strings.HasSuffix(n, "-shm") {
			continue
		}
		st, serr := os.Stat(n)
		if errors.Is(serr, fs.ErrNotExist) {
			continue
		}
		if serr != nil {
			return 0, serr
		}
		total += st.Size()
	}
	return total, err
}

func (one sample) text(parts []part) string {
	text := fmt.Sprintf("%6.0fs %8d records %5.0f B each", one.after.Seconds(), one.records, one.perRecord())
	for i, p := range parts {
		text += fmt.Sprintf("  %s %d MiB %d fd", p.name, one.memory[i]>>20, one.open[i])
	}
	return text
}

func (one sample) perRecord() float64 { return float64(one.disk) / float64(max(one.records, 1)) }

// judge compares the second quarter of the time with the last.
func judge(list []sample, parts []part) (errs []error) {
	if len(list) < 8 {
		return []error{fmt.Errorf("%d samples are too few to judge; soak longer", len(list))}
	}
	q := len(list) / 4
	early, late := list[q:2*q], list[len(list)-q:]
	hours := (late[0].after - early[0].after).Hours()
	for i, p := range parts {
		memory := func(s sample) float64 { return float64(s.memory[i]) }
		open := func(s sample) float64 { return float64(s.open[i]) }
		grown := middle(late, memory) - middle(early, memory)
		more := middle(late, open) - middle(early, open)
		fmt.Printf("%-6s %+.1f MiB from %.1f, that is %+.0f MiB an hour; %+.0f descriptors from %.0f\n", p.name,
			grown/(1<<20), middle(early, memory)/(1<<20), grown/(1<<20)/hours, more, middle(early, open))
		if grown > memoryNoise+memoryAnHour*hours {
			errs = append(errs, fmt.Errorf("the memory of %s has grown by %.0f MiB", p.name, grown/(1<<20)))
		}
		if more > descriptors {
			errs = append(errs, fmt.Errorf("%s has %.0f more open descriptors", p.name, more))
		}
	}
	was, is := middle(early, sample.perRecord), middle(late, sample.perRecord)
	fmt.Printf("disk   %.0f bytes a record, from %.0f\n", is, was)
	if last := late[q-1]; float64(last.disk) > was*diskPerRecord*float64(last.records)+diskLag {
		errs = append(errs, fmt.Errorf("a record takes %.0f bytes of disk, and took %.0f", is, was))
	}
	return errs
}

// middle is the median.
func middle(list []sample, of func(sample) float64) float64 {
	var values []float64
	for _, s := range list {
		values = append(values, of(s))
	}
	slices.Sort(values)
	return values[len(values)/2]
}
