package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/url"
	"time"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
)

// replacement is the statement that ends one key and lets in another under the
// same name. Of the old one there is only the key until the log was asked what it
// wrote.
func replacement(fresh, old keys.Public, last []record.LastSequence) (record.KeyChange, error) {
	switch {
	case fresh.ID() == old.ID():
		return record.KeyChange{}, usagef("--replaces names the key that is to be enrolled")
	case fresh.Name != old.Name:
		return record.KeyChange{}, usagef("the key %s cannot replace one of the name %s: make it with sealtap keygen %s --out FILE", fresh.Name, old.Name, old.Name)
	}
	return record.KeyChange{Enrol: []keys.Public{fresh}, Revoke: []record.Revocation{{Key: old, Last: last}}}, nil
}

// keepWritten lets everything stand that the log has of the keys that a statement
// revokes, where the statement does not say itself what stands.
func (rd *reader) keepWritten(ctx context.Context, c *record.KeyChange) error {
	if err := rd.settle(ctx); err != nil {
		return err
	}
	for i := range c.Revoke {
		if len(c.Revoke[i].Last) > 0 {
			continue
		}
		last, err := rd.lastOf(ctx, c.Revoke[i].Key.ID())
		if err != nil {
			return err
		}
		c.Revoke[i].Last = last
	}
	return nil
}

// settle returns once all that the log had taken by now is published and can be
// searched.
func (rd *reader) settle(ctx context.Context) error {
	var now struct {
		Size      uint64 `json:"size"`
		Published uint64 `json:"published"`
	}
	if err := rd.Get(ctx, "witnesses", nil, &now); err != nil {
		return err
	}
	taken := now.Size
	for end := time.Now().Add(publication); ; time.Sleep(20 * time.Millisecond) {
		if err := rd.refresh(ctx); err != nil {
			return err
		}
		var search struct {
			Indexed uint64 `json:"indexed"`
		}
		if err := rd.Get(ctx, "records", url.Values{"limit": {"1"}}, &search); err != nil {
			return err
		}
		if rd.head.Size >= taken && search.Indexed >= taken {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the log has taken %d entries and published %d, of which %d can be searched: are its witnesses up?", taken, rd.head.Size, search.Indexed)
		}
	}
}

// lastOf returns the newest record of each incarnation of a producer. The log says
// where they are; that they are there is proven.
func (rd *reader) lastOf(ctx context.Context, id keys.ID) ([]record.LastSequence, error) {
	if _, ok := rd.ring.Key(id); !ok {
		return nil, usagef("the log knows no producer with the key that is to be replaced, of identifier %s", id)
	}
	const maxPages = 1000
	cursor := make(url.Values)
	for range maxPages {
		var page struct {
			Producers []struct {
				KeyID        string `json:"key_id"`
				Incarnations []struct {
					Incarnation string `json:"incarnation"`
					Last        struct {
						Index    uint64 `json:"index"`
						Sequence uint64 `json:"sequence"`
					} `json:"last"`
				} `json:"incarnations"`
			} `json:"producers"`
			Next string `json:"next"`
		}
		if err := rd.Get(ctx, "producers", cursor, &page); err != nil {
			return nil, err
		}
		for _, p := range page.Producers {
			if p.KeyID != id.String() {
				continue
			}
			var list []record.LastSequence
			for _, inc := range p.Incarnations {
				l, err := rd.lastAt(ctx, id, inc.Incarnation, inc.Last.Index)
				if err != nil {
					return nil, err
				}
				list = append(list, l)
			}
			return list, nil
		}
		if page.Next == "" {
			break
		}
		cursor.Set("cursor", page.Next)
	}
	return nil, failure{fmt.Errorf("the log does not list producer %s, which its entries enrol", id)}
}

// lastAt checks that the entry at an index is a record of an incarnation.
func (rd *reader) lastAt(ctx context.Context, id keys.ID, incarnation string, index uint64) (record.LastSequence, error) {
	var l record.LastSequence
	if index >= rd.head.Size { // written since
		if err := rd.refresh(ctx); err != nil {
			return l, err
		}
	}
	e, err := rd.entry(ctx, index)
	if err != nil {
		return l, err
	}
	if e.Record == nil || e.Record.Stream.Producer != id || hex.EncodeToString(e.Record.Stream.Incarnation[:]) != incarnation {
		return l, failure{fmt.Errorf("entry %d is not a record of incarnation %s, as the log says", index, incarnation)}
	}
	return record.LastSequence{Incarnation: e.Record.Stream.Incarnation, Sequence: e.Record.GetSequence()}, nil
}
