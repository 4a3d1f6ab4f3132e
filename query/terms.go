package query

import (
	"crypto/sha256"
	"strconv"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// keptOfLong is how many bytes of a value longer than maxTerm are kept: prefixes
// up to this length find it.
const keptOfLong = maxTerm - sha256.Size

// newTerm returns the term of a value.
func newTerm(f field, value string) term {
	if len(value) > maxTerm {
		sum := sha256.Sum256([]byte(value))
		value = value[:keptOfLong] + string(sum[:])
	}
	return term{f, value}
}

// ownTerms are the terms that a record has by itself.
func ownTerms(r *record.Record) []term {
	list := []term{
		{fieldRecord, ""},
		{fieldStage, r.Stage()},
		{fieldProducer, string(r.Stream.Producer[:])},
	}
	if x := r.GetExchange(); len(x) > 0 {
		list = append(list, term{fieldExchange, string(x)})
	}
	return list
}

// requestTerms are the terms that every record of an exchange has from its
// request. What is sealed cannot be searched for.
func requestTerms(q *sealtapv1.Request) []term {
	list := make([]term, 0, 6)
	add := func(f field, value string) {
		if value != "" {
			list = append(list, newTerm(f, value))
		}
	}
	add(fieldWho, q.GetWho().GetId())
	add(fieldService, q.GetService())
	add(fieldMethod, q.GetMethod())
	add(fieldPath, q.GetPath())
	add(fieldOperation, q.GetOperation().GetName())
	if len(q.GetTrace()) == 16 {
		add(fieldTrace, string(q.GetTrace()))
	}
	return list
}

// responseTerms are the terms that every record of an exchange has from a
// response.
func responseTerms(p *sealtapv1.Response) []term {
	if p.GetStatus() == 0 {
		return nil
	}
	return []term{{fieldStatus, strconv.FormatUint(uint64(p.GetStatus()), 10)}}
}
