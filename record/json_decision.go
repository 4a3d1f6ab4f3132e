package record

import sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"

// decisionView is what the rules of a proxy said about a request.
func decisionView(d *sealtapv1.Decision) any {
	if d == nil {
		return nil
	}
	return struct {
		Rule    string `json:"rule"`
		Allowed bool   `json:"allowed"`
	}{d.GetRule(), d.GetAllowed()}
}
