package config

import (
	"fmt"

	"go.yaml.in/yaml/v3"
)

// Failure says what happens to exchanges that cannot be recorded.
type Failure string

// FailOpen lets them pass, counted and declared as gaps; FailClosed, which is the
// default, does not let them take place.
const (
	FailClosed Failure = "closed"
	FailOpen   Failure = "open"
)

// UnmarshalYAML implements [yaml.Unmarshaler].
func (f *Failure) UnmarshalYAML(n *yaml.Node) error {
	switch *f = Failure(n.Value); *f {
	case FailClosed, FailOpen:
		return nil
	}
	return fmt.Errorf("%q is neither closed nor open", n.Value)
}
