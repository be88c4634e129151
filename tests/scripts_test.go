package tests

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs the command scripts in testdata, each with its own home and
// data directory. They have $TINY, an archive of a tiny root file system, the
// conditions [root] and [subids], and the command `code N PROGRAM…`, which
// demands an exit code.
func TestScripts(t *testing.T) {
	each(t, everyone, 5*time.Minute, func(t *testing.T) {
		if _, err := os.Stat(tiny); err != nil {
			t.Skip("no static busybox on this machine: tests/setup.sh installs it")
		}
		testscript.RunT(quiet{t}, testscript.Params{
			Dir:                 filepath.Join(base, "testdata"),
			WorkdirRoot:         os.TempDir(),
			RequireExplicitExec: true,
			Setup: func(env *testscript.Env) error {
				env.Setenv("HOME", env.WorkDir+"/home")
				env.Setenv("PLASH_DATA", env.WorkDir+"/data")
				env.Setenv("TINY", tiny)
				env.Setenv("BIN", bin)
				env.Setenv("TERM", "dumb")
				return os.MkdirAll(env.WorkDir+"/home", 0o755)
			},
			Condition: func(condition string) (bool, error) {
				switch condition {
				case "root":
					return os.Getuid() == 0, nil
				case "subids":
					return os.Getuid() == 0 || exec.Command("grep", "-q", "^"+os.Getenv("USER")+":", "/etc/subuid").Run() == nil, nil
				}
				return false, errors.New("no such condition")
			},
			Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": code},
		})
	})
}

// quiet lets a script show only where it failed, although the test's own process
// is a verbose one.
type quiet struct{ *testing.T }

func (q quiet) Run(name string, f func(testscript.T)) {
	q.T.Run(name, func(t *testing.T) { f(quiet{t}) })
}
func (q quiet) Verbose() bool { return false }

// code is the command `code N PROGRAM ARG…`.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N PROGRAM ARG…")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}
