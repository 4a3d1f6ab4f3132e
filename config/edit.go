package config

import (
	"bytes"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Edit sets values of single keys, named like proxy.listen, in the content of a
// configuration file, and keeps everything else, comments included. What it
// returns has been checked.
func Edit(path string, data []byte, values map[string]string) ([]byte, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil || len(root.Content) == 0 {
		return nil, fmt.Errorf("%w: %s cannot be read as YAML", ErrInvalid, path)
	}
	changed := false
	for key, value := range values {
		section, name, _ := strings.Cut(key, ".")
		n := child(root.Content[0], section)
		if n == nil {
			return nil, fmt.Errorf("%w: %s: there is no section %s to set %s in", ErrInvalid, path, section, key)
		}
		if v := child(n, name); v == nil {
			n.Content = append(n.Content, scalar(name), scalar(value))
		} else if v.Value != value {
			v.SetString(value)
		} else {
			continue
		}
		changed = true
	}
	if !changed {
		return data, nil
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(&root); err != nil {
		return nil, fmt.Errorf("writing %s: %w", path, err)
	}
	_, err := Parse(path, b.Bytes())
	return b.Bytes(), err
}

func scalar(value string) *yaml.Node {
	n := new(yaml.Node)
	n.SetString(value)
	return n
}

// child returns the value of a key in a mapping, or nil.
func child(n *yaml.Node, key string) *yaml.Node {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}
