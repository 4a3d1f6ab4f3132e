package route

import "errors"

var errSeveral = errors.New("the path can be read in several ways")

// Plain returns a path without its escapes if there is only one way to read it. It
// refuses what [Table.Find] refuses, and encoded slashes, slashes that follow each
// other and parameters, which upstreams read in different ways.
func Plain(path string) (string, error) {
	kinds, err := look(path)
	if err != nil {
		return "", err
	}
	if kinds != 0 {
		return "", errSeveral
	}
	plain := make([]byte, 0, len(path))
	for i := 0; i < len(path); {
		c, n := decode(path[i:])
		plain = append(plain, c)
		i += n
	}
	return string(plain), nil
}
