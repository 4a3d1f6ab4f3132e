package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sealtap/sealtap/export"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

// exporting holds the flags of the command.
type exporting struct {
	search
	format, out string
}

func newExport() *cobra.Command {
	x := exporting{search: search{values: make(map[string]*string), limit: 1}}
	cmd := &cobra.Command{
		Use:   "export [SOURCE]",
		Short: "Write records for other tools, each with its index and leaf hash",
		Long: `Reads a whole log, or a mirror or data directory of it, proves every entry under a
checkpoint that satisfies the policy, and writes the records that match the filters: as
jsonl (a record a line, as the log's HTTP interface shows it), csv, parquet, or ocsf
(events of class API Activity). It asks no search index, so nothing that matches is left
out. In csv, parquet and ocsf a response bears the facts of its request too. Rows that come
back from a spreadsheet or a SIEM are proven by sealtap verify --rows FILE.

Sealed fields stay sealed. What a filter asks of a sealed field, or of a request that is
pruned, cannot be seen: those records are written too, and counted at the end.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%s takes one SOURCE at most", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return x.run(cmd, args) },
	}
	x.flags(cmd)
	_ = cmd.Flags().MarkHidden("json") // --format says it
	for _, f := range filters {
		if f.name != "cursor" {
			x.values[f.name] = cmd.Flags().String(f.name, "", f.usage)
		}
	}
	cmd.Flags().StringVar(&x.format, "format", export.JSONL, "one of "+strings.Join(export.Formats(), ", "))
	cmd.Flags().StringVar(&x.out, "out", "-", "`FILE` to write, or - for standard output")
	return cmd
}

func (x *exporting) run(cmd *cobra.Command, args []string) error {
	values, err := x.query(time.Now())
	if err != nil {
		return err
	}
	if _, err := export.New(x.format, io.Discard, nil); err != nil {
		return usagef("--format: %w", err)
	}
	if f, ok := cmd.OutOrStdout().(*os.File); ok && x.out == "-" && x.format == export.Parquet && term.IsTerminal(int(f.Fd())) {
		return usagef("parquet is not for terminals: say --out FILE")
	}
	p, err := x.policy()
	if err != nil {
		return err
	}
	location := x.location(p)
	if len(args) == 1 {
		location = args[0]
	}
	src, err := x.openSource(cmd.Context(), location)
	if err != nil {
		return err
	}
	defer src.close()
	s, err := openScan(cmd.Context(), src.Source, p)
	if err != nil {
		return err
	}
	out, err := createOutput(x.out, cmd.OutOrStdout())
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	n, err := x.write(cmd, s, values, out)
	if err != nil {
		return errors.Join(err, out.abandon())
	}
	if err := out.keep(); err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%d records written, of %d entries that were read; each is proven under the checkpoint cosigned by %s\n", n, s.tree.Size()-s.begin, strings.Join(s.cosigners(), ", "))
	return nil
}

// write writes what matches and returns how much that was.
func (x *exporting) write(cmd *cobra.Command, s *scan, values url.Values, out io.Writer) (n int, err error) {
	w, err := export.New(x.format, out, s.name)
	if err != nil {
		return 0, err
	}
	draw, unseen := progress(cmd.ErrOrStderr()), 0
	err = s.each(cmd.Context(), func(it export.Item) error {
		if draw != nil && it.Index%1024 == 0 {
			draw(it.Index, s.tree.Size())
		}
		ok, sealed := s.match(it, values)
		if !ok {
			return nil
		}
		if sealed {
			unseen++
		}
		n++
		return w.Write(it)
	})
	if err != nil {
		return n, err
	}
	if draw != nil {
		draw(s.tree.Size(), s.tree.Size())
	}
	if unseen > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%d of the rows could not be held against every filter, since what it asks for is sealed in them, or their requests were not there to be read\n", unseen)
	}
	return n, w.Close()
}

// match reports whether an item is asked for, and whether that could not be seen
// for what is sealed.
func (s *scan) match(it export.Item, v url.Values) (ok, sealed bool) {
	r := row{index: it.Index, entry: it.Entry, view: record.NewView(it.Entry, it.Index, s.name, nil)}
	q := it.Entry.Record.GetRequest()
	asked := slices.ContainsFunc([]string{"trace", "service", "method", "path", "operation", "who"}, v.Has)
	if matches(r, v) != nil || v.Has("status") && it.Entry.Record.GetResponse() == nil {
		return false, false
	}
	if q == nil && asked {
		if it.Request == nil {
			return it.Entry.Record.GetResponse() != nil, true // its request is pruned, or too long ago
		}
		other := row{entry: it.Request.Entry, view: record.NewView(it.Request.Entry, it.Request.Index, s.name, nil)}
		if matchRequest(other, v) != nil {
			return false, false
		}
		q = it.Request.Entry.Record.GetRequest()
	}
	sealed = v.Has("who") && q.GetWho() != nil && q.GetWho().GetId() == "" || v.Has("path") && q.GetPath() == ""
	return true, sealed
}

// output is a file that is there whole or not at all, or standard output.
type output struct {
	*bufio.Writer
	file *os.File // nil for standard output
	path string
}

// createOutput begins the file at a path, or - for standard output.
func createOutput(path string, stdout io.Writer) (*output, error) {
	if path == "-" {
		return &output{Writer: bufio.NewWriterSize(stdout, 64<<10)}, nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".sealtap-*")
	if err != nil {
		if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
			err = pe.Err // its name means nothing to anybody
		}
		return nil, usagef("%s cannot be written: %w", path, err)
	}
	return &output{bufio.NewWriterSize(f, 256<<10), f, path}, nil
}

func (o *output) keep() error {
	if err := o.Flush(); err != nil || o.file == nil {
		return errors.Join(err, o.abandon())
	}
	if err := errors.Join(o.file.Chmod(0o640), o.file.Sync()); err != nil {
		return errors.Join(err, o.abandon())
	}
	if err := os.Rename(o.file.Name(), o.path); err != nil {
		return errors.Join(err, o.abandon())
	}
	return o.file.Close()
}

func (o *output) abandon() error {
	if o.file == nil {
		return nil
	}
	_ = o.file.Close()
	return os.Remove(o.file.Name())
}

// scan reads a whole log in order, with the keys that its operator enrolled.
type scan struct {
	head  *policy.Checkpoint
	tree  *client.Tree
	ring  *record.Keyring
	begin uint64 // index of the first entry that the log still has
	pin   *keys.Public
	early []uint64                // statements of before
	last  map[string]*export.Item // requests whose responses have not come, by their exchanges
	order []waiting               // those, and some that have been answered, oldest first
	most  int                     // of them are remembered
}

// waiting is a request that waits for its response.
type waiting struct {
	key   string
	index uint64
}

// mostOpen is how many requests are remembered until their responses come.
const mostOpen = 50_000

func openScan(ctx context.Context, src client.Reader, p *policy.Policy) (*scan, error) {
	s := &scan{pin: p.Operator, last: make(map[string]*export.Item), most: mostOpen}
	// What is pruned is asked for first: it lies under every later head.
	if r, ok := src.(interface {
		Retention(ctx context.Context) (*client.Retention, error)
	}); ok {
		kept, err := r.Retention(ctx)
		if err != nil {
			return nil, err
		}
		s.begin, s.early = kept.Minimum, kept.Statements
	}
	signed, err := src.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	if s.head, err = p.Verify(signed); err != nil {
		return nil, fmt.Errorf("%w: %w", client.ErrVerification, err)
	}
	s.tree = client.NewTree(src, s.head.Size, s.head.Root)
	if s.head.Size == 0 {
		return nil, codeError{errors.New("the log has no entries yet"), exitUnfinished}
	}
	for len(s.early) > 0 {
		n := min(len(s.early), 256)
		list, err := s.tree.Entries(ctx, s.early[:n]...)
		if err != nil {
			return nil, err
		}
		for i, b := range list {
			if err := s.statement(s.early[i], b); err != nil {
				return nil, err
			}
		}
		s.early = s.early[n:]
	}
	return s, nil
}

// statement takes an entry that may be one of the operator's statements.
func (s *scan) statement(index uint64, b []byte) error {
	e, err := record.Parse(b)
	if err != nil {
		return nil // it was proven to be in the log, and says nothing that we understand
	}
	switch {
	case e.Genesis != nil && s.ring == nil:
		s.ring, err = record.NewKeyring(e.Genesis, s.pin)
	case s.ring == nil:
		err = errors.New("the log does not begin with a genesis: it is not a Sealtap log")
	case e.KeyChange != nil:
		err = s.ring.Apply(e.KeyChange, index)
	case e.Statement != nil:
		err = s.ring.ApplyStatement(e.Statement, index)
	}
	if err != nil {
		return failure{fmt.Errorf("entry %d: %w", index, err)}
	}
	return nil
}

// each calls f with every record, a response with its request.
func (s *scan) each(ctx context.Context, f func(export.Item) error) error {
	for p, err := range s.tree.Scan(ctx, s.begin) {
		if err != nil {
			return err
		}
		it, err := s.take(p)
		if err != nil {
			return err
		}
		if it == nil {
			continue
		}
		if err := f(*it); err != nil {
			return err
		}
	}
	return nil
}

// take takes the next entry: a record, a response with its request, or one of the
// operator's statements, of which it returns nothing.
func (s *scan) take(p client.Proven) (*export.Item, error) {
	e, err := record.Parse(p.Entry)
	if err != nil || e.Record == nil {
		return nil, s.statement(p.Index, p.Entry)
	}
	it := &export.Item{Index: p.Index, Entry: e}
	key := string(e.Record.Stream.Producer[:]) + string(e.Record.GetExchange())
	switch {
	case e.Record.GetRequest() != nil:
		s.remember(key, p)
	case e.Record.GetResponse() != nil:
		it.Request = s.last[key]
		delete(s.last, key)
	}
	return it, nil
}

// remember keeps a request for its response. It keeps a copy: the entry shares
// its memory with all others of its bundle.
func (s *scan) remember(key string, p client.Proven) {
	e, err := record.Parse(bytes.Clone(p.Entry))
	if err != nil {
		return // it was parsed before
	}
	s.last[key] = &export.Item{Index: p.Index, Entry: e}
	s.order = append(s.order, waiting{key, p.Index})
	for len(s.last) > s.most {
		if s.waits(s.order[0]) {
			delete(s.last, s.order[0].key)
		}
		s.order = s.order[1:]
	}
	if len(s.order) > 2*s.most {
		s.order = slices.DeleteFunc(s.order, func(w waiting) bool { return !s.waits(w) })
	}
}

// waits reports whether a request is still remembered.
func (s *scan) waits(w waiting) bool {
	it := s.last[w.key]
	return it != nil && it.Index == w.index
}

// name is the name under which the operator enrolled a key.
func (s *scan) name(id keys.ID) string {
	if s.ring != nil {
		if k, ok := s.ring.Key(id); ok {
			return k.Name
		}
	}
	return id.String()
}

func (s *scan) cosigners() []string {
	return cosigners(&reader{head: s.head})
}
