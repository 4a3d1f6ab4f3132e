package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decoder fills structs from YAML strictly. It walks the sections itself, so
// that an error about a value can name its key as well as its line.
type decoder struct {
	path string
	keys []string // that lead to where it is
	// lines learns where each key stands.
	lines map[string]int
}

func (d decoder) errorf(n *yaml.Node, format string, args ...any) error {
	where := ""
	if len(d.keys) > 0 {
		where = strings.Join(d.keys, ".") + ": "
	}
	return fmt.Errorf("%w: %s:%d: %s%w", ErrInvalid, d.path, n.Line, where, fmt.Errorf(format, args...))
}

func (d decoder) at(key string) decoder {
	d.keys = append(d.keys[:len(d.keys):len(d.keys)], key)
	return d
}

// decode fills what into points to.
func (d decoder) decode(n *yaml.Node, into any) error {
	v := reflect.ValueOf(into).Elem()
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	_, own := into.(yaml.Unmarshaler)
	switch {
	case own:
		if n.Kind != yaml.ScalarNode {
			return d.errorf(n, "a single value is wanted")
		}
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return d.decode(n, v.Interface())
	case v.Kind() == reflect.Struct:
		return d.section(n, v)
	case v.Kind() == reflect.Slice:
		return d.list(n, v)
	}
	if err := n.Decode(into); err != nil {
		if t := (*yaml.TypeError)(nil); errors.As(err, &t) {
			kind := v.Kind().String()
			if v.Kind() == reflect.Float64 {
				kind = "number"
			}
			return d.errorf(n, "%q is not a %s", n.Value, kind)
		}
		return d.errorf(n, "%w", err)
	}
	return nil
}

func (d decoder) section(n *yaml.Node, v reflect.Value) error {
	if n.Kind != yaml.MappingNode {
		return d.errorf(n, "a section of keys is wanted")
	}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field, known := fieldOf(v, key.Value)
		if !known {
			return d.errorf(key, "unknown key %q", key.Value)
		}
		if seen[key.Value] {
			return d.errorf(key, "the key %q comes twice", key.Value)
		}
		seen[key.Value] = true
		d.lines[strings.Join(d.at(key.Value).keys, ".")] = key.Line
		if err := d.at(key.Value).decode(value, field.Addr().Interface()); err != nil {
			return err
		}
	}
	return nil
}

func fieldOf(v reflect.Value, key string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if tag := v.Type().Field(i).Tag.Get("yaml"); key != "" && tag == key && tag != "-" {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func (d decoder) list(n *yaml.Node, v reflect.Value) error {
	if n.Kind != yaml.SequenceNode {
		return d.errorf(n, "a list is wanted")
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		at := d.at(fmt.Sprintf("[%d]", i))
		d.lines[strings.Join(at.keys, ".")] = item.Line
		if err := at.decode(item, v.Index(i).Addr().Interface()); err != nil {
			return err
		}
	}
	return nil
}
