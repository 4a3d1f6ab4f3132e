package record

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
)

const closeHeader = "sealtap/close/v1"

// Close ends a log: nothing stands in it behind the statement. Another log goes
// on from there, and says so in its genesis.
type Close struct {
	Successor keys.Public // the key of the log that goes on
}

// Closed is the end of a log, with the index of the entry that states it.
type Closed struct {
	Index     uint64
	Successor keys.Public
}

// NewClose returns the entry of a statement that closes a log.
func NewClose(origin string, number uint64, successor keys.Public, operator *keys.Private) ([]byte, error) {
	if successor.Name == origin || successor.Type != keys.Ed25519 {
		return nil, fmt.Errorf("closing %q: its successor %s is the key of no other log", origin, successor)
	}
	return signStatement(KindStatement, operator, closeHeader, "log "+origin, "number "+strconv.FormatUint(number, 10), "successor "+successor.String())
}

func parseClose(origin string, lines []string) (*Close, error) {
	if len(lines) != 1 {
		return nil, fmt.Errorf("%w: what closes a log has one line for its successor", ErrMalformed)
	}
	k, err := keyLine(lines[0], "successor ")
	if err == nil && (k.Name == origin || k.Type != keys.Ed25519) {
		err = fmt.Errorf("%w: the successor %s is the key of no other log", ErrMalformed, k)
	}
	return &Close{k}, err
}

// Closed says how the log ended, nil if it goes on.
func (k *Keyring) Closed() *Closed { return k.closed }

// checkOpen refuses statements behind the one that closed the log.
func (k *Keyring) checkOpen() error {
	if k.closed == nil {
		return nil
	}
	return fmt.Errorf("%w: entry %d closed the log", ErrStatement, k.closed.Index)
}

// NewSuccessor returns the genesis of a log that goes on from another one, whose
// last cosigned checkpoint it holds verbatim. Its post-quantum key, if it has one,
// follows as more.
func NewSuccessor(log keys.Public, operator *keys.Private, created time.Time, predecessor []byte, more ...keys.Public) ([]byte, error) {
	if err := checkPredecessor(log, predecessor); err != nil {
		return nil, err
	}
	return signStatement(KindGenesis, operator, append(genesisLines(log, operator, created, more),
		"predecessor "+base64.StdEncoding.EncodeToString(predecessor))...)
}

// parsePredecessor reads the line of a genesis that names the log before.
func parsePredecessor(log keys.Public, line string) ([]byte, error) {
	text, ok := strings.CutPrefix(line, "predecessor ")
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if !ok || err != nil || base64.StdEncoding.EncodeToString(b) != text {
		return nil, fmt.Errorf("%w: %.40q is not the checkpoint of a predecessor", ErrMalformed, line)
	}
	return b, checkPredecessor(log, b)
}

// checkPredecessor checks the form of a checkpoint of another log. Whether that
// log signed it only its policy can tell.
func checkPredecessor(log keys.Public, signed []byte) error {
	body, err := predecessorHead(signed)
	if err == nil && (body.Origin == log.Name || body.Size == 0) {
		err = fmt.Errorf("%w: a log does not go on from itself, nor from nothing", ErrMalformed)
	}
	return err
}

func predecessorHead(signed []byte) (checkpoint.Body, error) {
	text, err := checkpoint.Text(signed)
	if err != nil {
		return checkpoint.Body{}, fmt.Errorf("%w: the predecessor's checkpoint: %w", ErrMalformed, err)
	}
	body, _, err := checkpoint.Parse(text)
	if err != nil {
		return checkpoint.Body{}, fmt.Errorf("%w: the predecessor's checkpoint: %w", ErrMalformed, err)
	}
	return body, nil
}

// PredecessorHead returns what the predecessor's checkpoint says, and reports
// whether there is one. Nothing has verified it.
func (g *Genesis) PredecessorHead() (checkpoint.Body, bool) {
	if g.Predecessor == nil {
		return checkpoint.Body{}, false
	}
	body, err := predecessorHead(g.Predecessor)
	return body, err == nil
}

// Active returns the keys that are enrolled and not revoked, oldest first.
func (k *Keyring) Active() []keys.Public {
	var list []keys.Public
	for _, key := range k.Producers() {
		if k.producers[key.ID()].revoked == nil {
			list = append(list, key)
		}
	}
	return list
}
