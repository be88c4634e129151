package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"plash/internal/lxctest"
)

// A step is a command of a documented session, and what it prints.
type step struct{ command, want string }

// steps returns the sessions of a document, as one: what is indented and
// begins with "$ ", goes on with "> ", and is followed by what is printed.
func steps(text string) []step {
	var list []step
	in := false
	for line := range strings.SplitSeq(text, "\n") {
		code, ok := strings.CutPrefix(line, "    ")
		command, begins := strings.CutPrefix(code, "$ ")
		more, goesOn := strings.CutPrefix(code, "> ")
		switch {
		case ok && begins:
			list, in = append(list, step{command: command + "\n"}), true
		case !ok:
			in = false
		case !in: // other code
		case goesOn:
			list[len(list)-1].command += more + "\n"
		default:
			list[len(list)-1].want += code + "\n"
		}
	}
	return list
}

var sizeAndAge = regexp.MustCompile(`[0-9.]+[BKMG] +[0-9]+[smhd] +`)

// TestSessions: what the README and the tutorial show is what happens. "…"
// stands for what is another every time; alone on a line, for any lines. Sizes
// and ages are not compared.
func TestSessions(t *testing.T) {
	if !inChild() {
		needApt(t)
		makeDebian(t)
		for _, name := range []string{"README.md", "docs/tutorial.md"} {
			if err := copyFile("../"+name, filepath.Join(base, filepath.Base(name)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	each(t, []kind{root, ordinary}, 12*time.Minute, func(t *testing.T) {
		archive, err := os.ReadFile(debianArchive())
		if err != nil {
			t.Fatal(err)
		}
		server := lxctest.New(t)
		server.Add("debian:bookworm:"+runtime.GOARCH+":default", "20260929_05:24", archive, "12")
		t.Setenv("PLASH_LXC_SERVER", server.URL)
		for _, name := range []string{"README.md", "tutorial.md"} {
			t.Run(name, func(t *testing.T) {
				dir, err := os.MkdirTemp(os.Getenv("HOME"), "session-")
				if err != nil {
					t.Fatal(err)
				}
				list := steps(readFile(t, filepath.Join(base, name)))
				if len(list) < 5 {
					t.Fatalf("%d commands found", len(list))
				}
				var script strings.Builder
				for i, s := range list {
					fmt.Fprintf(&script, "%secho \x01%d\n", s.command, i)
				}
				file := filepath.Join(dir, ".script")
				if err := os.WriteFile(file, []byte("exec 2>&1\n"+script.String()), 0o600); err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command("setsid", "-w", "bash", file)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "PLASH_DATA="+filepath.Join(dir, ".data"))
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				rest := string(out)
				for i, s := range list {
					var got string
					got, rest, _ = strings.Cut(rest, fmt.Sprintf("\x01%d\n", i))
					got = sizeAndAge.ReplaceAllString(got, "0M 0s ")
					pattern := regexp.QuoteMeta(sizeAndAge.ReplaceAllString(s.want, "0M 0s "))
					pattern = regexp.MustCompile(`(?m)^…\n`).ReplaceAllString(pattern, `(?:.*\n)*`)
					pattern = strings.ReplaceAll(pattern, "…", ".*")
					if !regexp.MustCompile(`\A` + pattern + `\z`).MatchString(got) {
						t.Errorf("%s$ %sprints\n%swant\n%s", name, s.command, got, s.want)
					}
				}
			})
		}
	})
}
