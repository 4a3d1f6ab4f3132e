package export

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

const (
	// maxPage bounds a page of a column, compressed or not. Writers make pages of one
	// megabyte, or a little more.
	maxPage = 16 << 20
	// maxValues bounds the values of a page, of which a few bytes can stand for many.
	maxValues = 1 << 23
)

func readParquet(file *os.File, f func(*Line) error) (err error) {
	defer func() {
		// The reader panics on some files that are damaged.
		if e := recover(); e != nil {
			err = fmt.Errorf("%w: the file is damaged: %v", ErrRows, e)
		}
	}()
	st, err := file.Stat()
	if err != nil {
		return err
	}
	// The reader makes room for as large a footer as the file claims. (Parquet, "File Format")
	var tail [8]byte
	if _, err := file.ReadAt(tail[:], max(st.Size()-int64(len(tail)), 0)); err != nil || int64(binary.LittleEndian.Uint32(tail[:])) > st.Size() {
		return fmt.Errorf("%w: the file has been cut, or damaged", ErrRows)
	}
	// The index of pages is not needed, and may name others than those that are checked.
	in, err := parquet.OpenFile(file, st.Size(), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRows, err)
	}
	if err := checkPages(file, in.Metadata(), st.Size()); err != nil {
		return fmt.Errorf("%w: %w", ErrRows, err)
	}
	there := make(map[string]bool) // columns may have been dropped on the way
	var others []string
	for _, c := range in.Root().Columns() {
		if there[c.Name()] = true; !isColumn(c.Name()) {
			others = append(others, c.Name())
		}
	}
	rows := parquet.NewGenericReader[Row](in)
	defer func() { _ = rows.Close() }() // it was only read
	batch := make([]Row, 256)
	for n := 1; ; {
		k, err := rows.Read(batch)
		for i := range batch[:k] {
			cells := make(map[string]string)
			for _, c := range batch[i].cells() {
				if there[c.name] {
					cells[c.name] = c.text
				}
			}
			for _, name := range others {
				cells[name] = ""
			}
			if err := giveTable(Parquet, n, cells, f); err != nil {
				return err
			}
			n++
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrRows, err)
		}
		clear(batch)
	}
}

// checkPages refuses a file whose pages are larger than a page is: the parser
// believes what they say of themselves, and one of some bytes can become gigabytes.
func checkPages(file io.ReaderAt, meta *format.FileMetaData, size int64) error {
	for _, group := range meta.RowGroups {
		for _, column := range group.Columns {
			if err := checkColumn(file, &column.MetaData, size); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkColumn walks from page to page of a column, as the parser will.
func checkColumn(file io.ReaderAt, c *format.ColumnMetaData, size int64) error {
	begin := c.DataPageOffset
	if c.DictionaryPageOffset != 0 {
		begin = c.DictionaryPageOffset
	}
	if begin < 0 || c.TotalCompressedSize < 0 || begin > size || c.TotalCompressedSize > size-begin {
		return errors.New("a column does not lie within the file")
	}
	in := &counting{r: bufio.NewReader(io.NewSectionReader(file, begin, c.TotalCompressedSize))}
	reached := false
	for in.n < c.TotalCompressedSize {
		reached = reached || begin+in.n == c.DataPageOffset
		// A decoder of its own for each page: it reads ahead of nothing.
		var h format.PageHeader
		if err := thrift.NewDecoder(new(thrift.CompactProtocol).NewReader(in)).Decode(&h); err != nil {
			return fmt.Errorf("reading the header of a page: %w", err)
		}
		if err := checkPage(in, &h, c.Codec); err != nil {
			return err
		}
	}
	if !reached && c.TotalCompressedSize > 0 {
		return errors.New("the data of a column begins within one of its pages")
	}
	return nil
}

// checkPage checks what a page says of itself, and reads it.
func checkPage(in *counting, h *format.PageHeader, codec format.CompressionCodec) error {
	values, levels := int32(0), int32(0)
	packed := codec != format.Uncompressed
	switch {
	case h.DataPageHeader.Valid:
		values = h.DataPageHeader.V.NumValues
	case h.DictionaryPageHeader.Valid:
		values = h.DictionaryPageHeader.V.NumValues
	case h.DataPageHeaderV2.Valid:
		v := &h.DataPageHeaderV2.V
		values = max(v.NumValues, v.NumRows, v.NumNulls)
		if v.DefinitionLevelsByteLength < 0 || v.RepetitionLevelsByteLength < 0 || int64(v.DefinitionLevelsByteLength)+int64(v.RepetitionLevelsByteLength) > int64(h.CompressedPageSize) {
			return errors.New("the levels of a page are longer than the page")
		}
		levels = v.DefinitionLevelsByteLength + v.RepetitionLevelsByteLength
		packed = packed && (!v.IsCompressed.Valid || v.IsCompressed.V)
	}
	switch {
	case values < 0 || values > maxValues:
		return fmt.Errorf("a page has %d values, more than %d", values, maxValues)
	case h.CompressedPageSize < 0 || h.UncompressedPageSize < 0 || h.CompressedPageSize > maxPage || h.UncompressedPageSize > maxPage:
		return fmt.Errorf("a page has %d bytes, and %d when it is unpacked, more than %d", h.CompressedPageSize, h.UncompressedPageSize, maxPage)
	}
	page := io.LimitReader(in, int64(h.CompressedPageSize))
	if _, err := io.CopyN(io.Discard, page, int64(levels)); err != nil {
		return fmt.Errorf("reading a page: %w", err)
	}
	if packed {
		if err := checkPacked(page, codec); err != nil {
			return err
		}
	}
	_, err := io.Copy(io.Discard, page)
	return err
}

// checkPacked refuses a page that unpacks to more than a page is, whatever its header
// says.
func checkPacked(page io.Reader, codec format.CompressionCodec) error {
	var plain io.Reader
	switch codec {
	case format.Snappy: // its length stands before it, and more does not come
		n, err := binary.ReadUvarint(&counting{r: bufio.NewReaderSize(page, 16)})
		if err != nil || n > maxPage {
			return fmt.Errorf("a page unpacks to %d bytes, more than %d", n, maxPage)
		}
		return nil
	case format.Gzip:
		z, err := gzip.NewReader(page)
		if err != nil {
			return fmt.Errorf("unpacking a page: %w", err)
		}
		plain = z
	case format.Zstd:
		z, err := zstd.NewReader(page, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(2*maxPage))
		if err != nil {
			return fmt.Errorf("unpacking a page: %w", err)
		}
		defer z.Close()
		plain = z
	default:
		return fmt.Errorf("it is packed with %s, which is not read: write it with zstd, gzip, snappy or not packed at all", codec)
	}
	n, err := io.Copy(io.Discard, io.LimitReader(plain, maxPage+1))
	if err != nil {
		return fmt.Errorf("unpacking a page: %w", err)
	}
	if n > maxPage {
		return fmt.Errorf("a page unpacks to more than %d bytes", maxPage)
	}
	return nil
}

// counting counts what is read.
type counting struct {
	r *bufio.Reader
	n int64
}

// Read implements [io.Reader].
func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// ReadByte implements [io.ByteReader].
func (c *counting) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}
