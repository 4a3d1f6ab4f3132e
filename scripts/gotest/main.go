// Command gotest runs go test with its arguments, prints what go test prints, and
// at the end every test that was skipped, with its reason: go test alone hides
// those of packages that pass.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// event is a line of go test -json; see go doc test2json.
type event struct {
	Action, Package, Test, Output string
}

func main() {
	cmd := exec.Command("go", append([]string{"test", "-json"}, os.Args[1:]...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		os.Exit(2)
	}
	said := make(map[string]*strings.Builder) // by each test
	var skipped []string
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		var e event
		if json.Unmarshal(line, &e) != nil {
			fmt.Print(string(line))
			continue
		}
		name := e.Package + "." + e.Test
		switch {
		case e.Action == "output" && e.Test != "":
			if said[name] == nil {
				said[name] = new(strings.Builder)
			}
			said[name].WriteString(e.Output)
		case (e.Action == "output" || e.Action == "build-output") && e.Output != "PASS\n":
			fmt.Print(e.Output)
		case e.Action == "fail" && e.Test != "":
			fmt.Print(said[name])
		case e.Action == "skip" && e.Test != "":
			skipped = append(skipped, name+": "+reason(said[name].String()))
		}
		if e.Action == "pass" || e.Action == "fail" || e.Action == "skip" {
			delete(said, name)
		}
	}
	err = cmd.Wait()
	for _, s := range skipped {
		fmt.Println("SKIPPED " + s)
	}
	fmt.Printf("%d tests were skipped\n", len(skipped))
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		os.Exit(2)
	}
}

// reason is the last line that the test itself said.
func reason(output string) string {
	last := "without a reason"
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			last = line
		}
	}
	return last
}
