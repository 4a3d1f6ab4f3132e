package export

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

// Rows of Parquet in which a few bytes stand for many are refused before they are read.
func TestLargePages(t *testing.T) {
	type few struct {
		Index    uint64 `parquet:"index"`
		LeafHash string `parquet:"leaf_hash"`
		Method   string `parquet:"method"`
	}
	list := items(t)[:1]
	for codec, packed := range map[string]parquet.WriterOption{
		"none": parquet.Compression(&parquet.Uncompressed), "zstd": parquet.Compression(&parquet.Zstd), "gzip": parquet.Compression(&parquet.Gzip),
		"snappy": parquet.Compression(&parquet.Snappy), "brotli": parquet.Compression(&parquet.Brotli),
	} {
		for _, size := range []int{3, maxPage + 1} {
			var b bytes.Buffer
			w := parquet.NewGenericWriter[few](&b, packed)
			_, err := w.Write([]few{{41, newRow(list[0], name).LeafHash, strings.Repeat("a", size)}})
			if err = errors.Join(err, w.Close()); err != nil {
				t.Fatal(err)
			}
			rows, _, err := read(t, b.Bytes(), list)
			good := size == 3 && codec != "brotli"
			if (err == nil) != good || (rows == 1) != good || err != nil && !errors.Is(err, ErrRows) {
				t.Errorf("%s, %d bytes: %d rows, %v", codec, size, rows, err)
			}
		}
	}
}

// A page is measured by what comes out of it, not by what it says.
func TestLyingPages(t *testing.T) {
	plain := make([]byte, maxPage+1)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, err := z.Write(plain)
	if err = errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	header := func(values int32) format.PageHeader {
		h := format.PageHeader{Type: format.DataPage, UncompressedPageSize: 100}
		h.DataPageHeader = thrift.Null[format.DataPageHeader]{V: format.DataPageHeader{NumValues: values}, Valid: true}
		return h
	}
	for name, tc := range map[string]struct {
		codec format.CompressionCodec
		data  []byte
		h     format.PageHeader
		good  bool
	}{
		"gzip":   {format.Gzip, zipped.Bytes(), header(1), false},
		"zstd":   {format.Zstd, e.EncodeAll(plain, nil), header(1), false},
		"small":  {format.Zstd, e.EncodeAll(plain[:100], nil), header(1), true},
		"snappy": {format.Snappy, []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0}, header(1), false},
		"values": {format.Uncompressed, make([]byte, 10), header(maxValues + 1), false},
		"plain":  {format.Uncompressed, make([]byte, 10), header(1), true},
	} {
		tc.h.CompressedPageSize = int32(len(tc.data))
		err := checkPage(&counting{r: bufio.NewReader(bytes.NewReader(tc.data))}, &tc.h, tc.codec)
		if (err == nil) != tc.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}
