package record

import (
	"strings"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

func operationView(o *sealtapv1.Operation) any {
	if o == nil {
		return nil
	}
	return struct {
		Protocol string `json:"protocol"`
		Name     string `json:"name,omitempty"`
		Kind     string `json:"kind,omitempty"`
		Target   string `json:"target,omitempty"`
	}{o.GetProtocol(), o.GetName(), o.GetKind(), o.GetTarget()}
}

// OperationText is an operation for people, without its protocol: kind, name and
// target. It is empty if nothing of them is known.
func OperationText(o *sealtapv1.Operation) string {
	var words []string
	for _, w := range []string{o.GetKind(), o.GetName(), o.GetTarget()} {
		if w != "" {
			words = append(words, w)
		}
	}
	return strings.Join(words, " ")
}
