package audit

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Visible shows what could hide or turn text, or play with a terminal: controls, marks
// of direction, bytes that are no UTF-8. Everything that is neither text nor the end of
// a line is escaped.
func Visible(s string) string {
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r != '\n' && !unicode.IsGraphic(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
