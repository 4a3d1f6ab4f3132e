package record

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/sealtap/sealtap/keys"
)

const retentionHeader = "sealtap/retention/v1"

// Statement is what the operator says about the log itself. Statements and key
// changes share one numbering, so that none of either can be left out between
// two others.
type Statement struct {
	Origin string // of the log that it is meant for
	Number uint64 // one more than that of the operator's statement before
	Note   []byte // the signed note, verbatim

	// One of these is set.
	Retention *Retention
	Close     *Close
}

// Retention says how long a log keeps its entries at least. What it keeps beyond
// that is up to the log. The zero value is not a policy.
type Retention struct {
	// Forever keeps everything from now on; the other fields are zero then.
	Forever bool
	// Keep is how long an entry stays after it was first under a published
	// checkpoint, in whole seconds. 0: its age does not protect it.
	Keep time.Duration
	// Entries is how many of the newest entries stay, whatever their age. 0: their
	// number does not protect them.
	Entries uint64
}

// maxKeep is the longest time in seconds that a time.Duration can hold.
const maxKeep = uint64(math.MaxInt64 / int64(time.Second))

// String says the policy in words.
func (r Retention) String() string {
	var parts []string
	if r.Keep > 0 {
		parts = append(parts, "for "+hours(r.Keep)+" after they were published")
	}
	if r.Entries > 0 {
		parts = append(parts, fmt.Sprintf("while they are among the newest %d", r.Entries))
	}
	if r.Forever {
		parts = append(parts, "for ever")
	}
	return "entries stay " + strings.Join(parts, ", and ")
}

// hours writes a duration without the zeroes at its end.
func hours(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// detail describes the statement in JSON.
func (s *Statement) detail() any {
	d := map[string]any{"number": s.Number}
	if r := s.Retention; r != nil {
		d["retention"] = r.JSON()
	}
	if c := s.Close; c != nil {
		d["successor"] = c.Successor.String()
	}
	return d
}

// JSON returns the policy in the form in which it stands in output for programs.
func (r Retention) JSON() map[string]any {
	m := make(map[string]any)
	if r.Forever {
		m["forever"] = true
	}
	if r.Keep > 0 {
		m["keep_seconds"] = int64(r.Keep / time.Second)
	}
	if r.Entries > 0 {
		m["keep_entries"] = r.Entries
	}
	return m
}

// lines returns the policy as it stands in a statement.
func (r Retention) lines() ([]string, error) {
	var lines []string
	switch {
	case r.Forever && (r.Keep != 0 || r.Entries != 0):
		return nil, errors.New("a retention policy that keeps entries for ever has no other bound")
	case r.Forever:
		return []string{"keep forever"}, nil
	case r.Keep < 0 || r.Keep%time.Second != 0:
		return nil, fmt.Errorf("a retention policy counts whole seconds, not %s", r.Keep)
	case r.Keep == 0 && r.Entries == 0:
		return nil, errors.New("a retention policy that keeps nothing")
	}
	if r.Keep > 0 {
		lines = append(lines, "keep "+strconv.FormatInt(int64(r.Keep/time.Second), 10))
	}
	if r.Entries > 0 {
		lines = append(lines, "keep-entries "+strconv.FormatUint(r.Entries, 10))
	}
	return lines, nil
}

// NewRetention returns the entry of a statement about retention.
func NewRetention(origin string, number uint64, r Retention, operator *keys.Private) ([]byte, error) {
	lines, err := r.lines()
	if err != nil {
		return nil, err
	}
	return signStatement(KindStatement, operator, append([]string{retentionHeader, "log " + origin, "number " + strconv.FormatUint(number, 10)}, lines...)...)
}

// ParseStatement parses the body of a statement about the log without verifying
// its signature: see [Keyring.ApplyStatement].
func ParseStatement(body []byte) (Statement, error) {
	text, err := noteText(body)
	if err != nil {
		return Statement{}, err
	}
	header, _, _ := strings.Cut(string(text), "\n")
	lines, err := statementLines(body, header)
	if err != nil {
		return Statement{}, err
	}
	s := Statement{Note: body}
	if len(lines) < 3 {
		return Statement{}, fmt.Errorf("%w: a statement has lines for log and number, and says something", ErrMalformed)
	}
	if s.Origin, s.Number, err = numbered(lines); err != nil {
		return Statement{}, err
	}
	switch header {
	case retentionHeader:
		s.Retention, err = parseRetention(lines[2:])
	case closeHeader:
		s.Close, err = parseClose(s.Origin, lines[2:])
	default:
		err = fmt.Errorf("%w: %q is no statement that this program knows", ErrMalformed, header)
	}
	if err != nil {
		return Statement{}, err
	}
	return s, nil
}

// numbered reads the first two lines of a statement.
func numbered(lines []string) (origin string, number uint64, err error) {
	origin, ok := strings.CutPrefix(lines[0], "log ")
	if !ok || origin == "" {
		return "", 0, fmt.Errorf("%w: %q does not name a log", ErrMalformed, lines[0])
	}
	text, _ := strings.CutPrefix(lines[1], "number ")
	if number, err = strconv.ParseUint(text, 10, 64); err != nil || lines[1] != fmt.Sprintf("number %d", number) || number == 0 {
		return "", 0, fmt.Errorf("%w: %q is not the number of a statement", ErrMalformed, lines[1])
	}
	return origin, number, nil
}

// parseRetention is the inverse of lines: it takes that one spelling only.
func parseRetention(lines []string) (*Retention, error) {
	r := new(Retention)
	for _, line := range lines {
		word, value, _ := strings.Cut(line, " ")
		n, err := strconv.ParseUint(value, 10, 64)
		switch {
		case line == "keep forever":
			r.Forever = true
		case word == "keep" && err == nil && n <= maxKeep:
			r.Keep = time.Duration(n) * time.Second
		case word == "keep-entries" && err == nil:
			r.Entries = n
		default:
			return nil, fmt.Errorf("%w: a retention policy cannot say %q", ErrMalformed, line)
		}
	}
	again, err := r.lines()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if strings.Join(again, "\n") != strings.Join(lines, "\n") {
		return nil, fmt.Errorf("%w: a retention policy has the lines %q, in this spelling", ErrMalformed, again)
	}
	return r, nil
}

// Verify checks that the operator, and nobody else, signed the statement.
func (s Statement) Verify(operator keys.Public) error { return verifyNote(s.Note, operator) }

// Retained is a retention policy with the index of the entry that states it. It
// is in force under checkpoints of more than Index entries, until the next one.
type Retained struct {
	Index  uint64
	Policy Retention
}

// CheckStatement says whether the statement can be applied now.
func (k *Keyring) CheckStatement(s *Statement) error {
	if err := s.Verify(k.Genesis.Operator); err != nil {
		return fmt.Errorf("%w: %w", ErrStatement, err)
	}
	if s.Origin != k.Genesis.Log.Name {
		return fmt.Errorf("%w: it is meant for log %q, this is %q", ErrStatement, s.Origin, k.Genesis.Log.Name)
	}
	if s.Number != k.Number+1 {
		return fmt.Errorf("%w: its number is %d, the next one is %d", ErrStatement, s.Number, k.Number+1)
	}
	return k.checkOpen()
}

// ApplyStatement adds the statement at the given index of the log.
func (k *Keyring) ApplyStatement(s *Statement, index uint64) error {
	if err := k.CheckStatement(s); err != nil {
		return err
	}
	k.Number = s.Number
	if s.Retention != nil {
		k.retained = append(k.retained, Retained{index, *s.Retention})
	}
	if s.Close != nil {
		k.closed = &Closed{index, s.Close.Successor}
	}
	return nil
}

// Retention returns the retention policy in force under a checkpoint of the
// given size, and reports whether there is one: without it nothing may go.
func (k *Keyring) Retention(size uint64) (Retained, bool) {
	for i := len(k.retained) - 1; i >= 0; i-- {
		if k.retained[i].Index < size {
			return k.retained[i], true
		}
	}
	return Retained{}, false
}
