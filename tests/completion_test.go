package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestCompletion: in a shell that has read its script the tab key completes
// commands, options, macros, ids, keys, and files where none of these may
// stand.
func TestCompletion(t *testing.T) {
	shells := []struct {
		words []string
		setUp string
	}{
		{[]string{"bash", "--norc", "--noprofile", "-i"}, "source <(plash completion bash)"},
		{[]string{"zsh", "-f", "-i"}, "autoload -Uz compinit; compinit -D -u; source <(plash completion zsh)"},
		{[]string{"fish", "--no-config", "-i"}, "plash completion fish | source"},
	}
	cases := []struct{ typed, want string }{
		{"plash versi\t", plashVersion},
		{"plash id \t", "1"}, // the only one
		{"plash map too\t", "1"},
		{"plash pull:ho\t", "2"},
		{"plash run --workd\t/etc 1 pw\t", "/etc"}, // pwd is a file in the directory
		{"plash eval --from 1 --inlin\ta b", "### plash hint: image=1\na b"},
		{"plash nodepath 0 --allow-roo\t", "layer/0"},
		{"plash check 1 some-fil\t", "3"},
		{"plash cache chec\t1 some-fil\t", "3"},
		{"plash help-mac\t | head -c 6", "--from"},
		{"plash b paren\t--from-i\t2", "0"},
		{"plash --from-ma\ttoo\t-- echo some-fil\t", "some-file"},
	}
	each(t, []kind{root, ordinary}, 2*time.Minute, func(t *testing.T) {
		for _, shell := range shells {
			t.Run(shell.words[0], func(t *testing.T) {
				if _, err := exec.LookPath(shell.words[0]); err != nil {
					t.Skipf("no %s on this machine: tests/setup.sh installs it", shell.words[0])
				}
				dir := writable(t)
				t.Chdir(dir)
				t.Setenv("PLASH_DATA", filepath.Join(dir, "data"))
				needTiny(t)
				plash(t, "map", "tools", "1").ok()
				for _, name := range []string{"some-file", "pwd"} {
					if err := os.WriteFile(name, []byte("text\n"), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				term := startTerminal(t, shell.words...)
				term.send(shell.setUp + "; echo rea\\dy\n")
				term.expect("ready")
				for _, c := range cases {
					out := filepath.Join(dir, "out")
					term.send(c.typed + " >" + out + "; echo >" + out + ".done\n")
					eventually(t, c.typed+" has ended", func() bool { _, err := os.Stat(out + ".done"); return err == nil })
					os.Remove(out + ".done")
					got, _ := os.ReadFile(out)
					want := c.want + "\n"
					if c.want == "layer/0" {
						want = filepath.Join(dir, "data", c.want) + "\n"
					} else if c.want == "--from" {
						want = c.want
					}
					if string(got) != want {
						t.Errorf("%q: got %q, want %q; the terminal shows %q", c.typed, got, want, term.seen)
					}
				}
				term.send("exit\n")
			})
		}
	})
}

// plashVersion is what a plash that the tests built says.
const plashVersion = "unreleased"
