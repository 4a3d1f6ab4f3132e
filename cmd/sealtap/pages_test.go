package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
)

// pages says of each byte of a SQLite database what it is for, by walking its b-trees
// (https://www.sqlite.org/fileformat2.html), so that a bit which nobody notices can be
// told from one that is missed.
type pages struct {
	t       *testing.T
	file    []byte
	size    int // of a page
	classes []byte
	names   []string
	number  map[string]byte
}

// unread are the tables of a log's database that an audit does not read: what the log
// itself works with, and makes again from its entries.
var unread = map[string]bool{"stream": true, "run": true, "key_change": true, "tree": true, "fork": true, "mark": true}

func pagesOf(t *testing.T, file []byte) *pages {
	t.Helper()
	p := &pages{t: t, file: file, size: int(binary.BigEndian.Uint16(file[16:])), classes: make([]byte, len(file)), number: make(map[string]byte)}
	if p.size == 1 {
		p.size = 1 << 16
	}
	p.mark(0, len(file), "unused space") // until something refers to it
	p.walk(1, "sqlite_schema")
	p.mark(0, 100, "the file header")
	p.free(int(binary.BigEndian.Uint32(file[32:])))
	return p
}

// class is what the bit is for.
func (p *pages) class(bit int) string {
	class := p.names[p.classes[bit/8]]
	if strings.HasSuffix(class, upperByte) && 1<<(8+bit%8) >= p.size {
		return "upper bits of cell pointers"
	}
	if strings.HasSuffix(class, columnType) && bit%8 == 0 {
		return "whether bytes are a text or a blob"
	}
	return class
}

// The ends of classes of which some bits mean nothing: the first byte of a pointer to a
// cell, and the last of the type of a column.
const (
	upperByte  = "cell pointer, upper byte"
	columnType = "type of a column"
)

func (p *pages) mark(from, to int, class string) {
	k, ok := p.number[class]
	if !ok {
		k = byte(len(p.names))
		p.names, p.number[class] = append(p.names, class), k
	}
	for i := from; i < to; i++ {
		p.classes[i] = k
	}
}

// free marks the list of pages that are not in use.
func (p *pages) free(trunk int) {
	for trunk != 0 {
		at := (trunk - 1) * p.size
		n := int(binary.BigEndian.Uint32(p.file[at+4:]))
		p.mark(at, at+8+4*n, "unused space")
		trunk = int(binary.BigEndian.Uint32(p.file[at:]))
	}
}

// nameOf is the class of what a table holds.
func nameOf(table, what string) string {
	if unread[table] {
		return "the log's index"
	}
	if table == "sqlite_schema" {
		return "the schema"
	}
	return fmt.Sprintf("%s: %s", table, what)
}

// walk marks the b-tree with its root at a page.
func (p *pages) walk(page int, table string) {
	start := (page - 1) * p.size
	b := p.file[start : start+p.size]
	at := 0
	if page == 1 {
		at = 100
	}
	kind, cells := b[at], int(binary.BigEndian.Uint16(b[at+3:]))
	head := 8
	if kind == 2 || kind == 5 {
		head = 12
		p.walk(int(binary.BigEndian.Uint32(b[at+8:])), table)
	}
	p.mark(start+at, start+at+head+2*cells, nameOf(table, "page header"))
	p.mark(start+at+1, start+at+3, "bookkeeping of free space") // the first free block
	p.mark(start+at+5, start+at+8, "bookkeeping of free space") // where cells begin, and fragments
	for i := range cells {
		p.mark(start+at+head+2*i, start+at+head+2*i+1, nameOf(table, upperByte))
		p.cell(start, int(binary.BigEndian.Uint16(b[at+head+2*i:])), kind, table)
	}
}

// cell marks one cell and what hangs on it.
func (p *pages) cell(start, at int, kind byte, table string) {
	b := p.file[start : start+p.size]
	pos := at
	varint := func() uint64 {
		v, n := sqliteVarint(b[pos:])
		pos += n
		return v
	}
	if kind == 2 || kind == 5 {
		p.walk(int(binary.BigEndian.Uint32(b[pos:])), table)
		pos += 4
	}
	if kind == 5 { // a key and no payload
		varint()
		p.mark(start+at, start+pos, nameOf(table, "cell"))
		return
	}
	payload := int(varint())
	if kind == 13 {
		varint()
	}
	local := p.local(payload, kind)
	content := append([]byte(nil), b[pos:pos+local]...)
	p.mark(start+at, start+pos+local, nameOf(table, "cell"))
	if payload > local {
		content = p.overflow(start+pos+local, payload-local, table, content)
		local += 4
	}
	if kind == 10 && table == "checkpoint" && bytes.Contains(content, []byte("signed")) {
		p.mark(start+at, start+pos+local, "the log's index") // finds the row below
	}
	if kind != 13 && (kind != 10 || table != "wrapped_key") { // which is a b-tree of its key, and not of rows
		return
	}
	p.columns(start+pos, table, content, local)
	if table == "sqlite_schema" {
		p.object(content)
	}
}

// local is how much of a payload stands in the cell.
func (p *pages) local(payload int, kind byte) int {
	u := p.size - int(p.file[20])
	most := u - 35
	if kind != 13 {
		most = (u-12)*64/255 - 23
	}
	if payload <= most {
		return payload
	}
	least := (u-12)*32/255 - 23
	if k := least + (payload-least)%(u-4); k <= most {
		return k
	}
	return least
}

// overflow marks a chain of overflow pages and returns the payload with what is there.
func (p *pages) overflow(link, rest int, table string, content []byte) []byte {
	p.mark(link, link+4, nameOf(table, "cell"))
	for next := int(binary.BigEndian.Uint32(p.file[link:])); rest > 0; {
		start := (next - 1) * p.size
		n := min(rest, p.size-4)
		p.mark(start, start+4+n, nameOf(table, "cell"))
		content = append(content, p.file[start+4:start+4+n]...)
		if rest -= n; rest == 0 {
			p.mark(start, start+4, "the end of a chain")
		}
		next = int(binary.BigEndian.Uint32(p.file[start:]))
	}
	return content
}

// columns tells columns that an audit reads from others, where all are in the cell.
func (p *pages) columns(at int, table string, content []byte, local int) {
	which := map[string][]bool{ // whether a column is bookkeeping
		"checkpoint":  {false, true, true, false},
		"opening":     {false, true, false},
		"wrapped_key": {false, false, true},
	}[table]
	head, pos := sqliteVarint(content)
	body := int(head)
	if table == "checkpoint" && bytes.Contains(content[:body+len("signed")], []byte("signed")) {
		p.mark(at, at+local, "the log's index") // the log's own memory of what it has signed
		return
	}
	if table != "wrapped_key" && table != "checkpoint" && !unread[table] && table != "sqlite_schema" {
		p.mark(at+pos, at+pos+1, "row bookkeeping") // the key, which stands before the row
	}
	for i := 0; pos < int(head); i++ {
		dull := i < len(which) && which[i]
		serial, n := sqliteVarint(content[pos:])
		width := []int{0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0}[min(serial, 11)]
		if serial >= 12 {
			width = int(serial-12) / 2
		}
		if pos+n <= local && !unread[table] && table != "sqlite_schema" && serial >= 12 {
			p.mark(at+pos+n-1, at+pos+n, nameOf(table, columnType))
		}
		if dull && body+width <= local {
			p.mark(at+pos, at+pos+n, "row bookkeeping")
			p.mark(at+body, at+body+width, "row bookkeeping")
		}
		pos += n
		body += width
	}
}

// object walks what a row of the schema stands for: type, name, tbl_name, rootpage, sql.
func (p *pages) object(content []byte) {
	head, pos := sqliteVarint(content)
	body := int(head)
	var texts [5][]byte
	for i := range texts {
		serial, n := sqliteVarint(content[pos:])
		pos += n
		width := []int{0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0}[min(serial, 11)]
		if serial >= 12 {
			width = int(serial-12) / 2
		}
		texts[i] = content[body : body+width]
		body += width
	}
	root := 0
	for _, b := range texts[3] {
		root = root<<8 | int(b)
	}
	if root > 0 {
		p.walk(root, string(texts[2]))
	}
}

func sqliteVarint(b []byte) (v uint64, n int) {
	for n < 8 {
		v = v<<7 | uint64(b[n]&0x7f)
		n++
		if b[n-1] < 0x80 {
			return v, n
		}
	}
	return v<<8 | uint64(b[8]), 9
}
