package tiles

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrPath is wrapped by every error about the path of a tile.
var ErrPath = errors.New("not the path of a tile")

// maxLevel is the highest level that a path can name (tlog-tiles, "Merkle Tree").
const maxLevel = 63

// maxPath is longer than any path.
const maxPath = 100

// Path names a tile or an entry bundle as C2SP tlog-tiles does.
type Path struct {
	Entries bool // an entry bundle; Level is 0 then
	Level   uint
	N       uint64
	Width   int // 1 to 256; 256 is a complete tile
}

// String returns the path without a slash in front, such as
// "tile/0/x001/x234/067.p/8" or "tile/entries/000".
func (p Path) String() string {
	return string(p.append(make([]byte, 0, maxPath)))
}

func (p Path) append(b []byte) []byte {
	b = append(b, "tile/"...)
	if p.Entries {
		b = append(b, "entries"...)
	} else {
		b = strconv.AppendUint(b, uint64(p.Level), 10)
	}
	var groups [7]uint64 // of three digits each, the last one first
	n := 0
	for rest := p.N; n == 0 || rest > 0; rest /= 1000 {
		groups[n] = rest % 1000
		n++
	}
	for n--; n >= 0; n-- {
		b = append(b, '/')
		if n > 0 {
			b = append(b, 'x')
		}
		b = append(b, byte('0'+groups[n]/100), byte('0'+groups[n]/10%10), byte('0'+groups[n]%10))
	}
	if p.Width != Width {
		b = strconv.AppendInt(append(b, ".p/"...), int64(p.Width), 10)
	}
	return b
}

// ParsePath is the inverse of [Path.String]. It accepts that one spelling only.
func ParsePath(s string) (Path, error) {
	rest, ok := strings.CutPrefix(s, "tile/")
	level, rest, ok2 := strings.Cut(rest, "/")
	if !ok || !ok2 || len(s) > maxPath {
		return Path{}, fmt.Errorf("%w: %.100q", ErrPath, s)
	}
	p := Path{Entries: level == "entries", Width: Width}
	if !p.Entries {
		n, err := strconv.ParseUint(level, 10, 8)
		if err != nil || n > maxLevel {
			return Path{}, fmt.Errorf("%w: %q has no level from 0 to %d", ErrPath, s, maxLevel)
		}
		p.Level = uint(n)
	}
	number, width, partial := strings.Cut(rest, ".p/")
	if partial {
		n, err := strconv.ParseUint(width, 10, 16)
		if err != nil || n == 0 || n >= Width {
			return Path{}, fmt.Errorf("%w: %q has no width from 1 to %d", ErrPath, s, Width-1)
		}
		p.Width = int(n)
	}
	var buf [maxPath]byte
	digits := buf[:0]
	for i := range len(number) {
		if c := number[i]; c != 'x' && c != '/' {
			digits = append(digits, c)
		}
	}
	var err error
	// Whatever is spelt otherwise than it would be written is refused below.
	if p.N, err = strconv.ParseUint(string(digits), 10, 64); err != nil || string(p.append(buf[:0])) != s {
		return Path{}, fmt.Errorf("%w: %q", ErrPath, s)
	}
	return p, nil
}
