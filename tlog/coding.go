package tlog

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// The content codings in which entry bundles are served (RFC 9110, section 8.4.1).
const (
	identity   = "identity"
	codingZstd = "zstd"
	codingGzip = "gzip"
)

// negotiate chooses the coding of a bundle from the Accept-Encoding fields of a
// request: the one that the client gives the highest weight, and of equals the
// smallest. It reports false if the client takes none of them. (RFC 9110, section
// 12.5.3)
func negotiate(fields []string) (coding string, ok bool) {
	weights := make(map[string]int) // in thousandths
	for _, field := range fields {
		for element := range strings.SplitSeq(field, ",") {
			name, weight, ok := parseCoding(element)
			if _, twice := weights[name]; ok && !twice {
				weights[name] = weight
			}
		}
	}
	const least = 0 // of the weights that do not exclude, in best
	best := -1
	for _, c := range []string{codingZstd, codingGzip, identity} {
		weight, given := weights[c]
		if !given {
			weight, given = weights["*"]
		}
		switch {
		case given && weight == 0:
			continue
		case !given && c != identity:
			continue
		case !given:
			weight = least // identity will do, if nothing better is there
		}
		if weight > best {
			coding, best = c, weight
		}
	}
	return coding, best >= 0
}

// parseCoding reads an element of Accept-Encoding. It reports false if it is not
// one: what a client says in another form, it has not said.
func parseCoding(element string) (name string, weight int, ok bool) {
	name, params, weighted := strings.Cut(element, ";")
	name = strings.ToLower(strings.Trim(name, " \t"))
	if name == "x-gzip" { // section 8.4.1.3
		name = codingGzip
	}
	if name == "" {
		return "", 0, false
	}
	if !weighted {
		return name, 1000, true
	}
	key, value, _ := strings.Cut(strings.Trim(params, " \t"), "=")
	weight, ok = parseWeight(value)
	return name, weight, ok && strings.EqualFold(key, "q")
}

// parseWeight reads a qvalue: 0 to 1 with at most three decimals. (RFC 9110,
// section 12.4.2)
func parseWeight(s string) (thousandths int, ok bool) {
	whole, decimals, _ := strings.Cut(s, ".")
	if whole != "0" && whole != "1" || len(decimals) > 3 {
		return 0, false
	}
	digits := decimals + "000"[len(decimals):]
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || whole == "1" && n > 0 {
		return 0, false
	}
	if whole == "1" {
		n = 1000
	}
	return int(n), true
}

// compressor makes what the storage does not keep compressed. It can be used by
// many goroutines.
type compressor struct {
	zstd  *zstd.Encoder
	gzips sync.Pool // of *gzip.Writer
}

func newCompressor() (*compressor, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return nil, fmt.Errorf("making compressor: %w", err)
	}
	return &compressor{zstd: z}, nil
}

// compress returns the data in the coding.
func (c *compressor) compress(coding string, data []byte) ([]byte, error) {
	switch coding {
	case codingZstd:
		return c.zstd.EncodeAll(data, nil), nil
	case codingGzip:
		return c.gzip(data)
	}
	return data, nil
}

func (c *compressor) gzip(data []byte) ([]byte, error) {
	var b bytes.Buffer
	b.Grow(64 + len(data)/4)
	w, ok := c.gzips.Get().(*gzip.Writer)
	if !ok {
		var err error
		if w, err = gzip.NewWriterLevel(&b, gzip.BestSpeed); err != nil {
			return nil, fmt.Errorf("compressing bundle: %w", err)
		}
	}
	w.Reset(&b)
	_, err := w.Write(data)
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("compressing bundle: %w", err)
	}
	w.Reset(io.Discard) // the pool must not keep the answer
	c.gzips.Put(w)
	return b.Bytes(), nil
}
