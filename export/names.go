package export

import (
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/sealtap/sealtap/record"
)

// formNames returns the names of the facts of a form in JSON by their places, such
// as "http_response.code": a row that has one of them where its record has no such
// fact was changed.
var formNames = sync.OnceValue(func() map[string]map[string]bool {
	forms := map[string]map[string]bool{JSONL: {}, OCSF: {}}
	addNames(forms[JSONL], "", reflect.TypeFor[record.View]())
	addNames(forms[OCSF], "", reflect.TypeFor[event]())
	return forms
})

func addNames(names map[string]bool, at string, t reflect.Type) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue // such as those of a type that writes itself
		}
		names[at+name] = true
		addNames(names, at+name+".", f.Type)
	}
}

// known reports whether a name is one of an export: where the record has no such
// fact, a row that has it was changed. What others put beside has other names.
func known(form, place string) bool {
	if formNames()[form][place] {
		return true
	}
	// The names below these are what the record says, and not the form.
	if form == JSONL && (strings.HasPrefix(place, "headers.") || strings.HasPrefix(place, "credentials.")) {
		return true
	}
	return isColumn(place[strings.LastIndexByte(place, '.')+1:])
}

// isColumn reports whether a table of an export has such a column.
func isColumn(name string) bool {
	return slices.ContainsFunc(new(Row).cells(), func(c cell) bool { return c.name == name })
}
