package record

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// View is an entry as JSON shows it to programs. Absent facts are absent;
// hashes are standard base64.
type View struct {
	Index       uint64  `json:"index"`
	LeafHash    string  `json:"leaf_hash"`
	Producer    string  `json:"producer,omitempty"` // the name under which the key is enrolled
	ProducerKey string  `json:"producer_key,omitempty"`
	Incarnation string  `json:"incarnation,omitempty"`
	Sequence    *uint64 `json:"sequence,omitempty"`
	Stage       string  `json:"stage"`
	Exchange    string  `json:"exchange,omitempty"`
	Trace       string  `json:"trace,omitempty"`
	Caller      string  `json:"caller,omitempty"` // the exchange of the proxy before
	Time        string  `json:"time,omitempty"`
	Who         any     `json:"who,omitempty"`
	Source      *Value  `json:"source,omitempty"`
	Service     string  `json:"service,omitempty"`
	Method      string  `json:"method,omitempty"`
	Scheme      string  `json:"scheme,omitempty"`
	Authority   string  `json:"authority,omitempty"`
	Path        *Value  `json:"path,omitempty"`
	Query       *Value  `json:"query,omitempty"`
	Protocol    string  `json:"protocol,omitempty"`
	Template    string  `json:"template,omitempty"`
	Operation   any     `json:"operation,omitempty"`
	Decision    any     `json:"decision,omitempty"`
	Headers     any     `json:"headers,omitempty"`
	Credentials any     `json:"credentials,omitempty"`
	Request     any     `json:"request,omitempty"`
	Changes     any     `json:"changes,omitempty"` // what did not go on as it came
	Response    any     `json:"response,omitempty"`
	Tunnel      any     `json:"tunnel,omitempty"`
	Progress    any     `json:"progress,omitempty"`
	Detail      any     `json:"detail,omitempty"` // of records about the producer, seals and statements
}

// Value is an open value, or a sealed one with its value where the reader may
// see the opening. Salt lets the reader check the value against the commitment.
type Value struct {
	Open   string
	Sealed *Hash
	Shown  *string
	Salt   []byte
}

// MarshalJSON implements [json.Marshaler].
func (v Value) MarshalJSON() ([]byte, error) {
	if v.Sealed == nil {
		return json.Marshal(v.Open)
	}
	return json.Marshal(struct {
		Sealed string  `json:"sealed"`
		Value  *string `json:"value,omitempty"`
		Salt   []byte  `json:"salt,omitempty"`
	}{b64(v.Sealed[:]), v.Shown, v.Salt})
}

// String returns the value for people, or "" if it is sealed.
func (v *Value) String() string {
	switch {
	case v == nil:
		return ""
	case v.Sealed == nil:
		return v.Open
	case v.Shown != nil:
		return *v.Shown
	}
	return ""
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// NewView describes a parsed entry. name gives the name of a producer's key;
// openings that do not match their commitments are left out.
func NewView(e Entry, index uint64, name func(keys.ID) string, openings []*sealtapv1.Opening) *View {
	v := &View{Index: index, LeafHash: b64(e.Leaf[:]), Stage: e.Kind.String()}
	stream := func(s Stream) {
		v.Producer, v.ProducerKey, v.Incarnation = name(s.Producer), s.Producer.String(), s.Incarnation.String()
	}
	switch {
	case e.Record != nil:
		stream(e.Record.Stream)
		v.record(*e.Record, openings)
	case e.Seal != nil:
		stream(e.Seal.Stream)
		v.Detail = map[string]any{"size": e.Seal.Size, "root": b64(e.Seal.Root[:])}
	case e.Genesis != nil:
		v.Time = e.Genesis.Created.Format(time.RFC3339)
		d := map[string]any{"log": e.Genesis.Log.String(), "operator": e.Genesis.Operator.String()}
		if e.Genesis.PostQuantum != nil {
			d["post_quantum"] = e.Genesis.PostQuantum.String()
		}
		if p, ok := e.Genesis.PredecessorHead(); ok {
			d["predecessor"] = map[string]any{"origin": p.Origin, "size": p.Size, "root": b64(p.Root[:])}
		}
		v.Detail = d
	case e.KeyChange != nil:
		v.Detail = keyChangeDetail(e.KeyChange)
	case e.Statement != nil:
		v.Detail = e.Statement.detail()
	}
	return v
}

func keyChangeDetail(c *KeyChange) any {
	d := struct {
		Number uint64   `json:"number"`
		Log    []string `json:"log,omitempty"`
		Enrol  []string `json:"enrol,omitempty"`
		Revoke []string `json:"revoke,omitempty"`
	}{Number: c.Number}
	for _, k := range c.Log {
		d.Log = append(d.Log, k.String())
	}
	for _, k := range c.Enrol {
		d.Enrol = append(d.Enrol, k.String())
	}
	for _, r := range c.Revoke {
		d.Revoke = append(d.Revoke, r.Key.String())
	}
	return d
}

func (v *View) record(r Record, openings []*sealtapv1.Opening) {
	seq := r.GetSequence()
	v.Sequence, v.Stage = &seq, r.Stage()
	v.Time = time.Unix(0, r.GetTime()).UTC().Format("2006-01-02T15:04:05.000000000Z")
	v.Exchange = FormatUUID(r.GetExchange())
	sealed := sealedValues(r, openings)
	switch a := r.GetAbout().(type) {
	case *sealtapv1.Record_Request:
		v.request(a.Request, sealed)
	case *sealtapv1.Record_Response:
		v.response(a.Response, sealed)
	case *sealtapv1.Record_Progress:
		v.Progress = progressView(a.Progress)
	default:
		v.Detail = producerDetail(r)
	}
}

func (v *View) request(q *sealtapv1.Request, sealed map[string]*Value) {
	v.Trace = hex.EncodeToString(q.GetTrace())
	v.Caller = FormatUUID(q.GetCaller())
	v.Service, v.Method, v.Scheme = q.GetService(), q.GetMethod(), q.GetScheme()
	v.Authority, v.Protocol = q.GetAuthority(), q.GetProtocol()
	v.Source, v.Path, v.Query = pick(q.GetSource(), sealed[FieldSource]), pick(q.GetPath(), sealed[FieldPath]), pick(q.GetQuery(), sealed[FieldQuery])
	if w := q.GetWho(); w != nil {
		v.Who = newWhoView(w, sealed)
	}
	v.Template, v.Operation = q.GetTemplate(), operationView(q.GetOperation())
	v.Decision = decisionView(q.GetDecision())
	v.Headers, v.Credentials = headerView(q.GetHeaders(), sealed), credentialView(q.GetCredentials())
	v.Request = bodyView(q.GetBody())
	if c := q.GetChanges(); len(c) > 0 {
		v.Changes = changeViews(c)
	}
}

func (v *View) response(p *sealtapv1.Response, sealed map[string]*Value) {
	v.Headers, v.Credentials = headerView(p.GetHeaders(), sealed), credentialView(p.GetCredentials())
	v.Request = bodyView(p.GetRequestBody())
	out := map[string]any{
		"outcome":     OutcomeName(p.GetOutcome()),
		"duration_ns": p.GetDurationNs(),
	}
	if p.GetStatus() != 0 {
		out["status"] = p.GetStatus()
	}
	if b := p.GetReceived(); b != nil {
		out["received_size"], out["received_sha256"] = b.GetSize(), b64(b.GetSha256())
	}
	if b := p.GetSent(); b != nil {
		out["size"], out["sent_sha256"] = b.GetSize(), b64(b.GetSha256())
	}
	if p.GetDetail() != "" {
		out["detail"] = p.GetDetail()
	}
	if c := p.GetChanges(); len(c) > 0 {
		v.Changes = changeViews(c)
	}
	if a := p.GetAttempts(); len(a) > 0 {
		out["attempts"] = attemptViews(a)
	}
	if up, down := p.GetMessagesUp(), p.GetMessagesDown(); up+down > 0 {
		out["messages_up"], out["messages_down"] = up, down
	}
	v.Response = out
	if t := p.GetTunnel(); t != nil {
		v.Tunnel = struct {
			SNI  string `json:"sni,omitempty"`
			Up   any    `json:"up,omitempty"`
			Down any    `json:"down,omitempty"`
		}{t.GetSni(), bodyView(t.GetUp()), bodyView(t.GetDown())}
	}
}

func progressView(p *sealtapv1.Progress) any {
	return struct {
		Number       uint64 `json:"number"`
		Up           any    `json:"up,omitempty"`
		Down         any    `json:"down,omitempty"`
		MessagesUp   uint64 `json:"messages_up,omitempty"`
		MessagesDown uint64 `json:"messages_down,omitempty"`
		DurationNS   uint64 `json:"duration_ns"`
	}{p.GetNumber(), bodyView(p.GetUp()), bodyView(p.GetDown()), p.GetMessagesUp(), p.GetMessagesDown(), p.GetDurationNs()}
}

func pick(open string, sealed *Value) *Value {
	if sealed != nil {
		return sealed
	}
	if open == "" {
		return nil
	}
	return &Value{Open: open}
}

func bodyView(b *sealtapv1.Body) any {
	if b == nil {
		return nil
	}
	return struct {
		Size   uint64 `json:"size"`
		SHA256 string `json:"sha256"`
	}{b.GetSize(), b64(b.GetSha256())}
}

func credentialView(list []*sealtapv1.Credential) any {
	if len(list) == 0 {
		return nil
	}
	m := make(map[string]string, len(list))
	for _, c := range list {
		m[c.GetPlace()] = b64(c.GetDigest())
	}
	return m
}

// headerView maps each name to its value, or to a list of them where the header
// came more than once.
func headerView(list []*sealtapv1.Header, sealed map[string]*Value) any {
	if len(list) == 0 {
		return nil
	}
	group := sealed[FieldHeaders]
	var shown []string
	if group != nil && group.Shown != nil {
		shown, _ = SplitList([]byte(*group.Shown))
	}
	m := make(map[string]any, len(list))
	for _, h := range list {
		var val any = h.GetValue()
		if h.GetSealed() && group != nil {
			w := Value{Sealed: group.Sealed}
			if len(shown) > 0 {
				w.Shown, shown = &shown[0], shown[1:]
			}
			val = w
		}
		switch old := m[h.GetName()].(type) {
		case nil:
			m[h.GetName()] = val
		case []any:
			m[h.GetName()] = append(old, val)
		default:
			m[h.GetName()] = []any{old, val}
		}
	}
	return m
}

// sealedValues collects the commitments of a record, with those openings that
// match.
func sealedValues(r Record, openings []*sealtapv1.Opening) map[string]*Value {
	m := make(map[string]*Value, len(r.GetSealed()))
	for _, s := range r.GetSealed() {
		c := Hash(s.GetCommitment())
		m[s.GetField()] = &Value{Sealed: &c}
	}
	for _, o := range openings {
		if CheckOpening(r, o) == nil {
			s := string(o.GetValue())
			m[o.GetField()].Shown, m[o.GetField()].Salt = &s, o.GetSalt()
		}
	}
	return m
}

func producerDetail(r Record) any {
	switch a := r.GetAbout().(type) {
	case *sealtapv1.Record_Start:
		d := map[string]any{
			"reason":       enumName(a.Start.GetReason().String(), "START_REASON_"),
			"version":      a.Start.GetVersion(),
			"heartbeat_ns": a.Start.GetHeartbeatNs(),
			"recovered":    a.Start.GetRecovered(),
			"unfinished":   a.Start.GetUnfinished(),
		}
		if n := a.Start.GetDiscardedBytes(); n != 0 {
			d["discarded_bytes"] = n
		}
		if p := a.Start.GetPrevious(); p != nil {
			d["previous"] = map[string]any{"incarnation": hex.EncodeToString(p.GetIncarnation()), "size": p.GetSize(), "root": b64(p.GetRoot())}
		}
		if a.Start.GetDetail() != "" {
			d["detail"] = a.Start.GetDetail()
		}
		return d
	case *sealtapv1.Record_Stop:
		return map[string]any{"reason": a.Stop.GetReason()}
	case *sealtapv1.Record_Beacon:
		out := map[string]any{"checkpoint": string(a.Beacon.GetCheckpoint())}
		if back := a.Beacon.GetClockBackNs(); back > 0 {
			out["clock_back_ns"] = back
		}
		return out
	case *sealtapv1.Record_Gap:
		return map[string]any{
			"since":     time.Unix(0, a.Gap.GetSince()).UTC().Format(time.RFC3339Nano),
			"until":     time.Unix(0, a.Gap.GetUntil()).UTC().Format(time.RFC3339Nano),
			"exchanges": a.Gap.GetExchanges(), "reason": a.Gap.GetReason(),
		}
	case *sealtapv1.Record_Config:
		return map[string]any{"sha256": b64(a.Config.GetSha256())}
	}
	return nil
}

// OutcomeName is the name of an outcome in output for programs.
func OutcomeName(o sealtapv1.Outcome) string { return enumName(o.String(), "OUTCOME_") }

func enumName(s, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(s, prefix)), "_", "-")
}

// FormatUUID returns the usual form of a UUID, or "" if there is none.
func FormatUUID(b []byte) string {
	if len(b) != 16 {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// ParseUUID is the inverse of [FormatUUID].
func ParseUUID(s string) ([16]byte, error) {
	var id [16]byte
	if len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' {
		if _, err := hex.Decode(id[:], []byte(strings.ReplaceAll(s, "-", ""))); err == nil {
			return id, nil
		}
	}
	return id, fmt.Errorf("%q is not an exchange id: those read 01234567-89ab-7cde-8f01-23456789abcd", s)
}
