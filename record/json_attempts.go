package record

import sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"

// AttemptView is one try to have a request answered by an upstream.
type AttemptView struct {
	Upstream    string `json:"upstream"`
	Status      uint32 `json:"status,omitempty"`
	Detail      string `json:"detail,omitempty"`
	DurationNs  uint64 `json:"duration_ns"`
	Certificate []byte `json:"certificate_sha256,omitempty"`
}

func attemptViews(list []*sealtapv1.Attempt) []AttemptView {
	views := make([]AttemptView, 0, len(list))
	for _, a := range list {
		views = append(views, AttemptView{a.GetUpstream(), a.GetStatus(), a.GetDetail(), a.GetDurationNs(), a.GetCertificate()})
	}
	return views
}

// ChangeView is a difference between a message as it was received and as it was
// sent on.
type ChangeView struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

func changeViews(list []*sealtapv1.Change) []ChangeView {
	views := make([]ChangeView, 0, len(list))
	for _, c := range list {
		views = append(views, ChangeView{ChangeName(c.GetKind()), c.GetName()})
	}
	return views
}

// ChangeName is the name of a kind of change in output.
func ChangeName(k sealtapv1.ChangeKind) string { return enumName(k.String(), "CHANGE_KIND_") }
