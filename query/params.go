package query

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
)

// errParameter is wrapped by every error about what a caller asked for.
var errParameter = errors.New("bad parameter")

// parseSearch reads the query string of GET /v1/records. producers gives the
// keys that are enrolled under a name.
func parseSearch(raw string, producers func(name string) []keys.ID) (*search, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: the query string is malformed: %w", errParameter, err)
	}
	q := &search{since: math.MinInt64, until: math.MaxInt64, limit: defaultLimit, before: math.MaxInt64}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values[name][0]
		switch {
		case len(values[name]) > 1:
			err = errors.New("is given more than once")
		case value == "":
			err = errors.New("is empty")
		default:
			err = q.set(name, value, values, producers)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %q %w", errParameter, name, err)
		}
	}
	if values.Has("since") && values.Has("until") && q.since >= q.until {
		return nil, fmt.Errorf("%w: %q is not before %q", errParameter, "since", "until")
	}
	if len(q.clauses) == 0 {
		q.clauses = []clause{{field: fieldRecord, values: []string{""}}}
	}
	slices.SortStableFunc(q.clauses, func(a, b clause) int { return cmp.Compare(cost(a), cost(b)) })
	return q, nil
}

// cost guesses how late a clause should be asked: first those that few entries
// meet, last those that can have many terms.
func cost(c clause) int {
	if c.prefix {
		return math.MaxInt
	}
	return len(c.values)<<8 + slices.Index([]field{fieldExchange, fieldTrace, fieldPath, fieldOperation, fieldWho, fieldStatus,
		fieldService, fieldProducer, fieldMethod, fieldStage, fieldRecord}, c.field)
}

// set reads one parameter. Its errors go on after the name of the parameter.
func (q *search) set(name, value string, all url.Values, producers func(string) []keys.ID) (err error) {
	exact := func(f field, values ...string) {
		q.clauses = append(q.clauses, clause{field: f, values: values})
	}
	switch name {
	case "who":
		exact(fieldWho, newTerm(fieldWho, value).value)
	case "service":
		exact(fieldService, newTerm(fieldService, value).value)
	case "method":
		exact(fieldMethod, newTerm(fieldMethod, value).value)
	case "operation":
		exact(fieldOperation, newTerm(fieldOperation, value).value)
	case "path":
		return q.setPath(value)
	case "status":
		return q.setStatus(value)
	case "producer":
		var ids []string
		for _, id := range producerIDs(value, producers) {
			ids = append(ids, string(id[:]))
		}
		exact(fieldProducer, ids...)
	case "exchange":
		id, err := record.ParseUUID(value)
		exact(fieldExchange, string(id[:]))
		return err
	case "trace":
		id, err := hex.DecodeString(value)
		if err != nil || len(id) != 16 {
			return fmt.Errorf("is a trace id of 32 hexadecimal digits, not %.60q", value)
		}
		exact(fieldTrace, string(id))
	case "stage":
		if !slices.Contains(stages(), value) {
			return fmt.Errorf("is one of %s, not %.60q", strings.Join(stages(), ", "), value)
		}
		exact(fieldStage, value)
	case "since":
		q.since, err = parseTime(value)
	case "until":
		q.until, err = parseTime(value)
	case "limit":
		q.limit, err = parseLimit(value)
	case "cursor":
		q.before, err = parseCursor(value, searchDigest(all))
	default:
		return errors.New("is not a parameter of this call")
	}
	return err
}

func stages() []string {
	return []string{"request", "response", "start", "stop", "beacon", "gap", "config", "progress", "unknown"}
}

func (q *search) setPath(value string) error {
	prefix, ok := strings.CutSuffix(value, "*")
	if !ok {
		q.clauses = append(q.clauses, clause{field: fieldPath, values: []string{newTerm(fieldPath, value).value}})
		return nil
	}
	if len(prefix) > keptOfLong {
		return fmt.Errorf("is a prefix of %d bytes, the limit is %d", len(prefix), keptOfLong)
	}
	q.clauses = append(q.clauses, clause{field: fieldPath, values: []string{prefix}, prefix: true})
	return nil
}

func (q *search) setStatus(value string) error {
	digit := func(i int) bool { return '0' <= value[i] && value[i] <= '9' }
	switch {
	case len(value) != 3 || value[0] < '1' || value[0] > '9':
	case value[1:] == "xx":
		q.clauses = append(q.clauses, clause{field: fieldStatus, values: []string{value[:1]}, prefix: true})
		return nil
	case digit(1) && digit(2):
		q.clauses = append(q.clauses, clause{field: fieldStatus, values: []string{value}})
		return nil
	}
	return fmt.Errorf("is a status such as 404 or a class such as 4xx, not %.60q", value)
}

// producerIDs resolves the name of a producer, or the identifier of its key.
func producerIDs(value string, named func(string) []keys.ID) []keys.ID {
	ids := named(value)
	if b, err := hex.DecodeString(value); err == nil && len(b) == len(keys.ID{}) {
		ids = append(ids, keys.ID(b))
	}
	return ids
}

// parseTime reads a time of RFC 3339. Times that do not fit nanoseconds since
// the Unix epoch are before or after everything.
func parseTime(value string) (int64, error) {
	t, err := time.Parse(time.RFC3339, value)
	switch {
	case err != nil:
		return 0, fmt.Errorf("is a time such as 2006-01-02T15:04:05Z (RFC 3339), not %.60q", value)
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64, nil
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64, nil
	}
	return t.UnixNano(), nil
}

func parseLimit(value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > maxLimit || value != strconv.Itoa(n) {
		return 0, fmt.Errorf("is a number from 1 to %d, not %.60q", maxLimit, value)
	}
	return n, nil
}

// A cursor is the index of the last record shown, with a digest of the search
// that it continues. An index never changes its meaning, so a cursor stays right
// while the log grows.
const (
	cursorVersion = 1
	cursorSize    = 1 + 8 + 8
)

func formatCursor(index uint64, digest [8]byte) string {
	b := append([]byte{cursorVersion}, digest[:]...)
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(b, index))
}

func parseCursor(value string, digest [8]byte) (uint64, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil || len(b) != cursorSize || b[0] != cursorVersion || len(value) != base64.RawURLEncoding.EncodedLen(cursorSize) {
		return 0, errors.New("is not one that this call returned")
	}
	if [8]byte(b[1:9]) != digest {
		return 0, errors.New("is from another search: send the same filters with it")
	}
	index := binary.BigEndian.Uint64(b[9:])
	if index > math.MaxInt64 {
		return 0, errors.New("is not one that this call returned")
	}
	return index, nil
}

// searchDigest identifies the filters of a search: everything but the page.
func searchDigest(values url.Values) [8]byte {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if name != "cursor" && name != "limit" {
			fmt.Fprintf(h, "%q=%q\n", name, values[name])
		}
	}
	return [8]byte(h.Sum(nil)[:8])
}
