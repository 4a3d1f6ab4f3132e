// Command sealtap is an audit proxy whose records nobody can rewrite, and the
// log, the witnesses and the tools around it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/mirror"
	"github.com/sealtap/sealtap/proxy"
	"github.com/sealtap/sealtap/proxy/spool"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/storage/trillian"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

// version is set at build time by the release script.
var version = "devel"

// Exit codes are part of the contract with those who script against sealtap.
const (
	exitGood       = 0
	exitFailed     = 1 // verification failed
	exitUsage      = 2
	exitUnfinished = 3 // nothing concluded
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	// With a single P an fdatasync would hold up everything else.
	if runtime.GOMAXPROCS(0) < 2 {
		runtime.GOMAXPROCS(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	refused := refuseHelp(root)
	err := root.ExecuteContext(ctx)
	if err == nil {
		err = refused()
	}
	if err == nil {
		return exitGood
	}
	if !errors.Is(err, errReported) {
		fmt.Fprintln(stderr, "sealtap: "+harmless(oneLine(err.Error())))
	}
	return exitCode(err)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "sealtap",
		Short: "An audit proxy whose records nobody can rewrite",
		Long: `Sealtap stands in front of services, writes every request and response down before
it lets them pass, and commits each record to a transparency log whose heads are
cosigned by independent witnesses. Anyone with the public keys can check it offline.`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(newUp(), newDemo(), newProxy(), newLog(), newWitness(), newKeygen(), newEnrol(), newRevoke(),
		newQuery(), newShow(), newProve(), newVerify(), newMirror(), newAudit(), newReport(), newExport(), newBundle(), newMonitor(), newPolicy(), newConfig())
	return root
}

// usageError is an error in what the user asked for.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// failure says that something was verified and is not right.
type failure struct{ error }

func (e failure) Unwrap() error { return e.error }

// errReported stands for an outcome that was printed already.
var errReported = errors.New("reported")

// exitCode maps an error to the contract's exit codes.
func exitCode(err error) int {
	if code := (codeError{}); errors.As(err, &code) {
		return code.code
	}
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	if errors.As(err, new(failure)) || errors.Is(err, storage.ErrCorrupt) || errors.Is(err, tlog.ErrBehind) || errors.Is(err, trillian.ErrDiffers) {
		return exitFailed // what is stored is not what was signed
	}
	for _, target := range []error{config.ErrInvalid, keys.ErrMalformed, audit.ErrConfig, mirror.ErrConfig, mirror.ErrLocked, proxy.ErrConfig, client.ErrConfig, policy.ErrInvalid, tlog.ErrConfig,
		sqlite.ErrLocked, sqlite.ErrForeign, sqlite.ErrNewer, spool.ErrInUse, syscall.EADDRINUSE, syscall.EADDRNOTAVAIL, fs.ErrNotExist, fs.ErrPermission, fs.ErrExist} {
		if errors.Is(err, target) && !errors.Is(err, client.ErrVerification) && !errors.Is(err, client.ErrUnavailable) {
			return exitUsage
		}
	}
	if errors.Is(err, client.ErrVerification) {
		return exitFailed
	}
	if p := (*client.Problem)(nil); errors.As(err, &p) && p.Status == http.StatusBadRequest {
		return exitUsage // a filter that the log does not understand
	}
	return exitUnfinished
}

// codeError carries an exit code.
type codeError struct {
	error
	code int
}

func (e codeError) Unwrap() error { return e.error }

// oneLine makes an error one line, however many were joined.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// harmless keeps what a log or a client chose from playing with the terminal: it
// escapes everything that is neither text nor the end of a line.
func harmless(s string) string { return audit.Visible(s) }

// exactArgs is cobra.ExactArgs with an error that says what is wanted.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			want := "no arguments"
			if len(names) > 0 {
				want = strings.Join(names, " ")
			}
			return usagef("%s takes %s; see %s --help", cmd.CommandPath(), want, cmd.CommandPath())
		}
		return nil
	}
}
