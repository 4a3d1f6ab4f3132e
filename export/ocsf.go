package export

import (
	"net/netip"
	"strings"
)

// The numbers are those of OCSF 1.5 (https://schema.ocsf.io/1.5.0/classes/api_activity).
const (
	ocsfVersion  = "1.5.0"
	ocsfCategory = 6    // Application Activity
	ocsfClass    = 6003 // API Activity

	ocsfCreate, ocsfRead, ocsfUpdate, ocsfDelete, ocsfOther = 1, 2, 3, 4, 99

	ocsfInformational, ocsfSuccess, ocsfFailure, ocsfUnknown = 1, 1, 2, 0
)

// event is a row as an event of OCSF's class API Activity. What OCSF has no place
// for stands in unmapped: among that what proves the event.
type event struct {
	ActivityID  int          `json:"activity_id"`
	CategoryUID int          `json:"category_uid"`
	ClassUID    int          `json:"class_uid"`
	TypeUID     int          `json:"type_uid"`
	SeverityID  int          `json:"severity_id"`
	Time        int64        `json:"time"` // milliseconds
	Duration    *uint64      `json:"duration,omitempty"`
	StatusID    int          `json:"status_id"`
	StatusCode  string       `json:"status_code,omitempty"`
	Metadata    ocsfMetadata `json:"metadata"`
	API         ocsfAPI      `json:"api"`
	Actor       *ocsfActor   `json:"actor,omitempty"`
	Source      ocsfEndpoint `json:"src_endpoint"`
	Request     *ocsfRequest `json:"http_request,omitempty"`
	Response    *ocsfAnswer  `json:"http_response,omitempty"`
	Unmapped    ocsfUnmapped `json:"unmapped"`
}

type ocsfMetadata struct {
	Version string `json:"version"`
	UID     string `json:"uid"` // the leaf hash: no two records have the same
	Product struct {
		Name   string `json:"name"`
		Vendor string `json:"vendor_name"`
	} `json:"product"`
	LogProvider    string `json:"log_provider,omitempty"` // the producer
	CorrelationUID string `json:"correlation_uid,omitempty"`
}

type ocsfNamed struct {
	Name string `json:"name,omitempty"`
}

type ocsfAPI struct {
	Operation string       `json:"operation"`
	Service   *ocsfNamed   `json:"service,omitempty"`
	Request   *ocsfUID     `json:"request,omitempty"`
	Response  *ocsfOutcome `json:"response,omitempty"`
}

type ocsfUID struct {
	UID string `json:"uid"`
}

type ocsfOutcome struct {
	Code *uint64 `json:"code,omitempty"`
}

type ocsfActor struct {
	User ocsfNamed `json:"user"`
}

type ocsfEndpoint struct {
	IP   string `json:"ip,omitempty"`
	Port uint16 `json:"port,omitempty"`
	Name string `json:"name,omitempty"`
}

type ocsfRequest struct {
	Method string  `json:"http_method,omitempty"`
	URL    ocsfURL `json:"url"`
	Length *uint64 `json:"length,omitempty"`
}

type ocsfURL struct {
	Scheme   string `json:"scheme,omitempty"`
	Hostname string `json:"hostname,omitempty"`
	Path     string `json:"path,omitempty"`
	Query    string `json:"query_string,omitempty"`
}

type ocsfAnswer struct {
	Code   *uint64 `json:"code,omitempty"`
	Length *uint64 `json:"length,omitempty"`
}

type ocsfUnmapped struct {
	Index        uint64  `json:"index"`
	LeafHash     string  `json:"leaf_hash"`
	Stage        string  `json:"stage"`
	Producer     string  `json:"producer"`
	ProducerKey  string  `json:"producer_key"`
	Incarnation  string  `json:"incarnation"`
	Sequence     uint64  `json:"sequence"`
	RequestIndex *uint64 `json:"request_index,omitempty"`
	TimeNS       int64   `json:"time_ns"`
	WhoHow       string  `json:"who_how,omitempty"`
	WhoVerified  *bool   `json:"who_verified,omitempty"`
	Protocol     string  `json:"protocol,omitempty"`
	Trace        string  `json:"trace,omitempty"`
	Outcome      string  `json:"outcome,omitempty"`
	RequestSHA   string  `json:"request_sha256,omitempty"`
	ReceivedSize *uint64 `json:"received_size,omitempty"`
	ReceivedSHA  string  `json:"received_sha256,omitempty"`
	SentSHA      string  `json:"sent_sha256,omitempty"`
	Sealed       string  `json:"sealed,omitempty"`
}

func newEvent(r *Row) *event {
	e := &event{
		ActivityID: activity(r.Method), CategoryUID: ocsfCategory, ClassUID: ocsfClass, SeverityID: ocsfInformational,
		Time: r.Time.UnixMilli(), StatusID: ocsfUnknown, API: ocsfAPI{Operation: operation(r)},
		Unmapped: ocsfUnmapped{
			Index: r.Index, LeafHash: r.LeafHash, Stage: r.Stage, Producer: r.Producer, ProducerKey: r.ProducerKey, Incarnation: r.Incarnation,
			Sequence: r.Sequence, RequestIndex: r.RequestIndex, TimeNS: r.Time.UnixNano(), WhoHow: r.WhoHow, WhoVerified: r.WhoVerified,
			Protocol: r.Protocol, Trace: r.Trace, Outcome: r.Outcome, RequestSHA: r.RequestSHA, ReceivedSize: r.ReceivedSize, ReceivedSHA: r.ReceivedSHA,
			SentSHA: r.SentSHA, Sealed: r.Sealed,
		},
	}
	e.TypeUID = ocsfClass*100 + e.ActivityID
	e.Metadata = ocsfMetadata{Version: ocsfVersion, UID: r.LeafHash, LogProvider: r.Producer, CorrelationUID: r.Exchange}
	e.Metadata.Product.Name, e.Metadata.Product.Vendor = "Sealtap", "Sealtap"
	if r.Exchange != "" {
		e.API.Request = &ocsfUID{r.Exchange}
	}
	if r.Service != "" {
		e.API.Service = &ocsfNamed{r.Service}
	}
	if r.Who != "" {
		e.Actor = &ocsfActor{ocsfNamed{r.Who}}
	}
	e.Source = endpoint(r.Source)
	if r.Method != "" {
		e.Request = &ocsfRequest{Method: r.Method, URL: ocsfURL{r.Scheme, r.Authority, r.Path, r.Query}, Length: r.RequestSize}
	}
	if r.DurationNS != nil {
		e.answered(r)
	}
	return e
}

// answered adds what a response says.
func (e *event) answered(r *Row) {
	took := *r.DurationNS / 1_000_000
	e.Duration, e.StatusCode = &took, number(r.Status)
	e.API.Response = &ocsfOutcome{r.Status}
	e.Response = &ocsfAnswer{r.Status, r.SentSize}
	e.StatusID = ocsfFailure
	if r.Status != nil && *r.Status < 400 && r.Outcome == "complete" {
		e.StatusID = ocsfSuccess
	}
}

func operation(r *Row) string {
	if r.Method == "" {
		return r.Stage
	}
	return strings.TrimSpace(r.Method + " " + r.Path)
}

// activity is what a method does, as RFC 9110 defines it.
func activity(method string) int {
	switch method {
	case "POST":
		return ocsfCreate
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return ocsfRead
	case "PUT", "PATCH":
		return ocsfUpdate
	case "DELETE":
		return ocsfDelete
	}
	return ocsfOther
}

func endpoint(source string) ocsfEndpoint {
	if ap, err := netip.ParseAddrPort(source); err == nil {
		return ocsfEndpoint{IP: ap.Addr().String(), Port: ap.Port()}
	}
	if a, err := netip.ParseAddr(source); err == nil {
		return ocsfEndpoint{IP: a.String()}
	}
	if source == "" {
		return ocsfEndpoint{Name: "sealed"}
	}
	return ocsfEndpoint{Name: source}
}
