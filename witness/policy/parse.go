package policy

import (
	"bytes"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/keys"
)

const (
	// maxBytes and maxDefinitions bound what a policy can cost (tlog-policy,
	// "Implementation limits", asks for 32 of each kind). An ML-DSA-44 vkey has
	// 1.8 kB.
	maxBytes       = 4 << 20
	maxDefinitions = 1024

	// maxMLDSAName is the longest origin or cosigner name that an ML-DSA-44
	// cosignature can commit to (tlog-cosignature, "cosigned_message").
	maxMLDSAName = 255

	operatorTag = "sealtap-operator"
)

// Parse reads a policy file. Its errors wrap [ErrInvalid] and name the line.
func Parse(data []byte) (*Policy, error) {
	if len(data) > maxBytes {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrInvalid, maxBytes)
	}
	r := reader{
		policy: &Policy{
			groups: make(map[string]Group),
			logs:   make(map[string]verifiers),
			known:  make(map[signer]cosigner),
		},
		defined: make(map[string]int),
		member:  make(map[string]int),
		logKeys: make(map[string]int),
		witKeys: make(map[string]int),
	}
	// The last line may lack its newline: editors make such files.
	for line := range bytes.SplitSeq(bytes.TrimSuffix(data, []byte("\n")), []byte("\n")) {
		r.line++
		if err := r.readLine(line); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrInvalid, r.line, err)
		}
	}
	if r.quorum == 0 {
		return nil, fmt.Errorf("%w: there is no quorum line; write %q if no cosignature is needed", ErrInvalid, "quorum none")
	}
	return r.policy, nil
}

// reader is the state of one Parse. Its maps give the line of a thing's first use.
type reader struct {
	policy  *Policy
	line    int
	quorum  int            // line of the quorum
	defined map[string]int // names of witnesses and groups: one namespace
	member  map[string]int // names that are in a group already
	logKeys map[string]int // public keys, without name and type
	witKeys map[string]int
}

// readLine reads one line. (tlog-policy, "Structure")
func (r *reader) readLine(line []byte) error {
	for _, c := range line {
		if !allowed(c) {
			return fmt.Errorf("the byte 0x%02x is not allowed in a policy", c)
		}
	}
	text := strings.TrimFunc(string(line), isBlank)
	if comment, ok := strings.CutPrefix(text, "#"); ok {
		return r.readComment(strings.FieldsFunc(comment, isBlank))
	}
	items := strings.FieldsFunc(text, isBlank)
	if len(items) == 0 {
		return nil
	}
	switch items[0] {
	case "log":
		return r.readLog(items[1:])
	case "witness":
		return r.readWitness(items[1:])
	case "group":
		return r.readGroup(items[1:])
	case "quorum":
		return r.readQuorum(items[1:])
	}
	return fmt.Errorf("%.40q begins no line of a policy; log, witness, group, quorum and # do", items[0])
}

// readComment looks for the operator's key: the one comment that matters to us.
// A damaged one is an error, for a pin that is silently not there protects nobody.
func (r *reader) readComment(items []string) error {
	if len(items) == 0 || items[0] != operatorTag {
		return nil
	}
	if len(items) != 2 {
		return fmt.Errorf("the comment reads %q", "# "+operatorTag+" VKEY")
	}
	key, err := keys.ParsePublic(items[1])
	if err != nil {
		return fmt.Errorf("operator: %w", err)
	}
	if key.Type != keys.Ed25519 {
		return fmt.Errorf("operator: a key of type 0x%02x cannot be an operator's, 0x01 can", byte(key.Type))
	}
	if r.policy.Operator != nil {
		return fmt.Errorf("a second operator's key; there can be one")
	}
	r.policy.Operator = &key
	return nil
}

// readLog reads "log <vkey> [<url>]".
func (r *reader) readLog(items []string) error {
	if len(items) != 1 && len(items) != 2 {
		return fmt.Errorf("a log line reads %q", "log VKEY [URL]")
	}
	key, v, err := parseKey(items[0], keys.Ed25519, keys.MLDSA44)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	u, err := optionalURL(items[1:])
	if err != nil {
		return fmt.Errorf("log %s: %w", key.Name, err)
	}
	if first, ok := r.logKeys[string(key.Key)]; ok {
		return fmt.Errorf("the log on line %d has the same public key", first)
	}
	if _, err := r.policy.logs[key.Name].Verifier(key.Name, v.KeyHash()); err == nil {
		return fmt.Errorf("another log has the same name and key ID")
	}
	if len(r.policy.Logs) == maxDefinitions {
		return fmt.Errorf("more than %d logs", maxDefinitions)
	}
	r.logKeys[string(key.Key)] = r.line
	r.policy.Logs = append(r.policy.Logs, Log{Key: key, URL: u})
	r.policy.logs[key.Name] = append(r.policy.logs[key.Name], v)
	return nil
}

// readWitness reads "witness <name> <vkey> [<url>]".
func (r *reader) readWitness(items []string) error {
	if len(items) != 2 && len(items) != 3 {
		return fmt.Errorf("a witness line reads %q", "witness NAME VKEY [URL]")
	}
	key, v, err := parseKey(items[1], keys.Cosignature, keys.MLDSA44)
	if err != nil {
		return fmt.Errorf("witness %s: %w", items[0], err)
	}
	u, err := optionalURL(items[2:])
	if err != nil {
		return fmt.Errorf("witness %s: %w", items[0], err)
	}
	if first, ok := r.witKeys[string(key.Key)]; ok {
		return fmt.Errorf("the witness on line %d has the same public key", first)
	}
	s := signer{key.Name, v.KeyHash()}
	if _, ok := r.policy.known[s]; ok {
		return fmt.Errorf("another witness has a key of the same name and key ID")
	}
	if len(r.policy.Witnesses) == maxDefinitions {
		return fmt.Errorf("more than %d witnesses", maxDefinitions)
	}
	if err := r.define(items[0]); err != nil {
		return err
	}
	r.witKeys[string(key.Key)] = r.line
	w := Witness{Name: items[0], Key: key, URL: u}
	r.policy.Witnesses = append(r.policy.Witnesses, w)
	r.policy.known[s] = cosigner{witness: w, verifier: v}
	return nil
}

// readGroup reads "group <name> all|any|<k> <name>...".
func (r *reader) readGroup(items []string) error {
	if len(items) < 3 {
		return fmt.Errorf("a group line reads %q, with at least one member", "group NAME all|any|K MEMBER...")
	}
	g := Group{Name: items[0], Members: items[2:]}
	var err error
	if g.K, err = parseThreshold(items[1], len(g.Members)); err != nil {
		return fmt.Errorf("group %s: %w", g.Name, err)
	}
	for _, m := range g.Members {
		if _, ok := r.defined[m]; !ok {
			return fmt.Errorf("group %s: member %q is not defined on a line before", g.Name, m)
		}
		// tlog-policy, "Defining a witness group": else one witness counts twice.
		if first, ok := r.member[m]; ok {
			return fmt.Errorf("group %s: %q is a member of the group on line %d already", g.Name, m, first)
		}
		r.member[m] = r.line
	}
	if len(r.policy.Groups) == maxDefinitions {
		return fmt.Errorf("more than %d groups", maxDefinitions)
	}
	if err := r.define(g.Name); err != nil {
		return err
	}
	r.policy.Groups = append(r.policy.Groups, g)
	r.policy.groups[g.Name] = g
	return nil
}

// readQuorum reads "quorum <name>".
func (r *reader) readQuorum(items []string) error {
	if len(items) != 1 {
		return fmt.Errorf("a quorum line reads %q", "quorum NAME|none")
	}
	if r.quorum != 0 {
		return fmt.Errorf("the quorum is defined on line %d already", r.quorum)
	}
	if _, ok := r.defined[items[0]]; !ok && items[0] != None {
		return fmt.Errorf("quorum %q is not defined on a line before", items[0])
	}
	r.quorum, r.policy.Quorum = r.line, items[0]
	return nil
}

// define takes a name for a witness or a group.
func (r *reader) define(name string) error {
	if name == None {
		return fmt.Errorf("the name %q is reserved", None)
	}
	if first, ok := r.defined[name]; ok {
		return fmt.Errorf("the name %q is defined on line %d already", name, first)
	}
	r.defined[name] = r.line
	return nil
}

// parseKey reads a vkey of one of two types.
func parseKey(vkey string, a, b keys.Type) (keys.Public, note.Verifier, error) {
	key, err := keys.ParsePublic(vkey)
	if err != nil {
		return keys.Public{}, nil, err
	}
	if key.Type != a && key.Type != b {
		return keys.Public{}, nil, fmt.Errorf("key %s has type 0x%02x; 0x%02x or 0x%02x is wanted", key.Name, byte(key.Type), byte(a), byte(b))
	}
	if key.Type == keys.MLDSA44 && len(key.Name) > maxMLDSAName {
		return keys.Public{}, nil, fmt.Errorf("the name of an ML-DSA-44 key is longer than %d bytes", maxMLDSAName)
	}
	v, err := key.Verifier()
	if err != nil {
		return keys.Public{}, nil, fmt.Errorf("key %s: %w", key.Name, err)
	}
	return key, v, nil
}

// parseThreshold reads the threshold of a group of n members.
func parseThreshold(s string, n int) (int, error) {
	switch s {
	case "any":
		return 1, nil
	case "all":
		return n, nil
	}
	k, err := strconv.ParseUint(s, 10, 31) // digits only: no sign, no underscore
	if err != nil {
		return 0, fmt.Errorf("the threshold %.20q is neither any, nor all, nor a decimal number", s)
	}
	if k < 1 || k > uint64(n) {
		return 0, fmt.Errorf("the threshold is %d, of %d members", k, n)
	}
	return int(k), nil
}

// optionalURL returns the one item, if any, once it is known to be a URL.
func optionalURL(items []string) (string, error) {
	if len(items) == 0 {
		return "", nil
	}
	if u, err := url.Parse(items[0]); err != nil || u.Scheme == "" {
		return "", fmt.Errorf("%.80q is not an absolute URL", items[0])
	}
	return items[0], nil
}

// allowed reports whether the octet can stand in a policy file, newline apart.
// (tlog-policy, "Character set")
func allowed(c byte) bool { return c == '\t' || c >= 0x20 && c != 0x7f }

// isBlank reports whether r is white space in the sense of tlog-policy, which is
// ASCII only whatever Unicode says.
func isBlank(r rune) bool { return r == ' ' || r == '\t' }
