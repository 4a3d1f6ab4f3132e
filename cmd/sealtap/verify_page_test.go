package main

import (
	"fmt"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sealtap/sealtap/web/webtest"
)

// choose PAGE POLICY EVIDENCE opens a page from its file in a browser, gives it the two
// files as a person does, and prints what it shows then.
func choose(ts *testscript.TestScript, neg bool, args []string) {
	p := webtest.Open(inScript{ts}).Page("file://" + ts.MkAbs(args[0]))
	p.Choose("#policy-file", ts.MkAbs(args[1]))
	p.Choose("#evidence-file", ts.MkAbs(args[2]))
	p.Wait(`document.getElementById("verdict")`)
	var text string
	p.Eval(`document.getElementById("result").innerText`, &text)
	_, err := fmt.Fprintln(ts.Stdout(), text)
	ts.Check(err)
}

// inScript lets a script be a test.
type inScript struct{ *testscript.TestScript }

func (inScript) Helper()            {}
func (s inScript) Skip(args ...any) { s.Fatalf("%v", args) } // a script asks before
func (s inScript) Cleanup(f func()) { s.Defer(f) }
