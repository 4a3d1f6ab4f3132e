package audit

import (
	"encoding/binary"
	"errors"

	"github.com/sealtap/sealtap/record"
)

// errShort is the error of a coder whose bytes are not what was written.
var errShort = errors.New("it ends early, or holds what nobody wrote")

// coder writes values one after the other, or reads them back: the same calls in
// the same order do both, so that the two cannot differ. Numbers are varints,
// texts and lists stand behind their length. (docs/formats.md, "What an audit knows")
type coder struct {
	reading bool
	bytes   []byte // written so far, or still to be read
	err     error  // of reading
}

func (c *coder) fail() {
	if c.err == nil {
		c.err = errShort
	}
	c.bytes = nil
}

func (c *coder) number(v *uint64) {
	if !c.reading {
		c.bytes = binary.AppendUvarint(c.bytes, *v)
		return
	}
	n, size := binary.Uvarint(c.bytes)
	if size <= 0 {
		*v = 0
		c.fail()
		return
	}
	*v, c.bytes = n, c.bytes[size:]
}

func (c *coder) signed(v *int64) {
	n := uint64(*v<<1) ^ uint64(*v>>63) // small ones of either sign are short
	c.number(&n)
	*v = int64(n>>1) ^ -int64(n&1)
}

func (c *coder) flag(v *bool) {
	n := uint64(0)
	if *v {
		n = 1
	}
	c.number(&n)
	*v = n == 1
}

// raw takes as many bytes as dst has.
func (c *coder) raw(dst []byte) {
	if !c.reading {
		c.bytes = append(c.bytes, dst...)
		return
	}
	if len(c.bytes) < len(dst) {
		c.fail()
		return
	}
	copy(dst, c.bytes)
	c.bytes = c.bytes[len(dst):]
}

func (c *coder) blob(v *[]byte) {
	n := c.count(len(*v), 1)
	if c.reading {
		*v = make([]byte, n)
	}
	c.raw(*v)
}

func (c *coder) text(v *string) {
	b := []byte(*v)
	c.blob(&b)
	*v = string(b)
}

// count takes the length of a list, of whose elements each has size bytes at least.
func (c *coder) count(n, size int) int {
	v := uint64(n)
	c.number(&v)
	if c.reading && v > uint64(len(c.bytes)/size) {
		c.fail()
		return 0
	}
	return int(v)
}

func (c *coder) hashes(v *[]record.Hash) {
	n := c.count(len(*v), len(record.Hash{}))
	if c.reading {
		*v = make([]record.Hash, n)
	}
	for i := range *v {
		c.raw((*v)[i][:])
	}
}

// list takes a list, each element as the function does.
func list[T any](c *coder, v *[]T, each func(*T)) {
	n := c.count(len(*v), 1)
	if c.reading {
		*v = make([]T, n)
	}
	for i := range *v {
		each(&(*v)[i])
	}
}

// maybe takes what there may be.
func maybe[T any](c *coder, v **T, each func(*T)) {
	there := *v != nil
	if c.flag(&there); !there {
		*v = nil
		return
	}
	if c.reading {
		*v = new(T)
	}
	each(*v)
}
