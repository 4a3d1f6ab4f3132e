// Package webtest drives a real browser in tests: Chromium without a window, over the
// DevTools protocol on a pair of pipes, so that no port is opened.
//
// Call [Open], then [Browser.Page] and [Page.Eval].
package webtest

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// patience is how long a browser may take over one command on a busy machine.
const patience = 5 * time.Minute

// TB is what of a test is needed: [testing.TB] has it.
type TB interface {
	Helper()
	Skip(...any)
	Fatalf(string, ...any)
	Cleanup(func())
}

// Browser is a Chromium. It is for one goroutine at a time.
type Browser struct {
	t      TB
	to     *os.File // commands
	from   *bufio.Reader
	answer *os.File
	id     int
}

// Page is a tab.
type Page struct {
	b       *Browser
	session string
}

// Open starts Chromium, which ends with the test. Where there is none the test is
// skipped.
func Open(t TB) *Browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed: nothing is checked in a real browser")
	}
	dir, err := os.MkdirTemp("", "webtest")
	if err != nil {
		t.Fatalf("starting chromium: %v", err)
	}
	in, to, err := os.Pipe()
	if err != nil {
		t.Fatalf("starting chromium: %v", err)
	}
	answer, out, err := os.Pipe()
	if err != nil {
		t.Fatalf("starting chromium: %v", err)
	}
	// The switches keep it from the network: what is opened here are files and loopback.
	cmd := exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+filepath.Join(dir, "profile"),
		"--remote-debugging-pipe", "about:blank")
	cmd.ExtraFiles = []*os.File{in, out} // 3 and 4, where Chromium looks for them
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting chromium: %v", err)
	}
	in.Close()
	out.Close()
	b := &Browser{t: t, to: to, from: bufio.NewReader(answer), answer: answer}
	t.Cleanup(func() {
		to.Close()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // its own children too
		_ = cmd.Wait()
		answer.Close()
		_ = os.RemoveAll(dir)
	})
	return b
}

// call sends a command and returns its result. Events in between are passed over.
func (b *Browser) call(session, method string, params, result any) {
	b.t.Helper()
	b.id++
	command, err := json.Marshal(map[string]any{"id": b.id, "method": method, "params": params, "sessionId": session})
	if err == nil {
		_ = b.answer.SetReadDeadline(time.Now().Add(patience))
		_, err = b.to.Write(append(command, 0))
	}
	for err == nil {
		var text []byte
		if text, err = b.from.ReadBytes(0); err != nil {
			break
		}
		var m struct {
			ID     int
			Result json.RawMessage
			Error  *struct{ Message string }
		}
		if err = json.Unmarshal(text[:len(text)-1], &m); err != nil || m.ID != b.id {
			continue
		}
		if m.Error != nil {
			err = errors.New(m.Error.Message)
			break
		}
		if result != nil {
			err = json.Unmarshal(m.Result, result)
		}
		if err == nil {
			return
		}
	}
	b.t.Fatalf("chromium: %s: %v", method, err)
}

// Page opens an address in a new tab and waits until it is there.
func (b *Browser) Page(address string) *Page {
	b.t.Helper()
	var target struct{ TargetID string }
	b.call("", "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	p := &Page{b, attached.SessionID}
	var navigated struct{ ErrorText string }
	p.Call("Page.navigate", map[string]any{"url": address}, &navigated)
	if navigated.ErrorText != "" {
		b.t.Fatalf("chromium: %s: %s", address, navigated.ErrorText)
	}
	p.Wait(`document.readyState === "complete" && location.href !== "about:blank"`)
	return p
}

// Call sends a command of the DevTools protocol to the tab.
func (p *Page) Call(method string, params, result any) {
	p.b.t.Helper()
	p.b.call(p.session, method, params, result)
}

// Eval evaluates an expression of JavaScript, waits for it if it is a promise, and
// stores its value in result unless that is nil.
func (p *Page) Eval(expression string, result any) {
	p.b.t.Helper()
	var out struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	p.Call("Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}, &out)
	if x := out.ExceptionDetails; x != nil {
		p.b.t.Fatalf("chromium: %.200s: %s %s", expression, x.Text, x.Exception.Description)
	}
	if result == nil {
		return
	}
	if err := json.Unmarshal(out.Result.Value, result); err != nil {
		p.b.t.Fatalf("chromium: %.200s gives %s: %v", expression, out.Result.Value, err)
	}
}

// Wait waits until an expression is true.
func (p *Page) Wait(expression string) {
	p.b.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		var ok bool
		if p.Eval("!!("+expression+")", &ok); ok {
			return
		}
		if time.Now().After(end) {
			p.b.t.Fatalf("chromium: %s has not come to be", expression)
		}
	}
}

// Choose puts a file into the file input that a CSS selector names, as a person does.
func (p *Page) Choose(selector, file string) {
	p.b.t.Helper()
	var document struct{ Root struct{ NodeID int } }
	p.Call("DOM.getDocument", map[string]any{}, &document)
	var found struct{ NodeID int }
	p.Call("DOM.querySelector", map[string]any{"nodeId": document.Root.NodeID, "selector": selector}, &found)
	p.Call("DOM.setFileInputFiles", map[string]any{"nodeId": found.NodeID, "files": []string{file}}, nil)
}

// Shot writes a picture of the whole page to a file, at a width in pixels.
func (p *Page) Shot(file string, width int, dark bool) error {
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	p.Call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	p.Call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}, nil)
	var shot struct{ Data string }
	p.Call("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil {
		return fmt.Errorf("reading screenshot: %w", err)
	}
	return os.WriteFile(file, png, 0o600)
}
