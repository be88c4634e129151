package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A row is a command and what it must come to: its exit code, and patterns
// that all of standard output and standard error must match.
type row struct {
	words    string // divided at blanks; '' is an empty word
	code     int
	out, err string
}

func (r row) check(t *testing.T) {
	t.Helper()
	words := strings.Fields(r.words)
	for i, word := range words {
		if word == "''" {
			words[i] = ""
		}
	}
	got := plash(t, words...)
	match := func(pattern, text string) bool {
		return regexp.MustCompile(`\A(?:` + pattern + `)\z`).MatchString(text)
	}
	if got.state.ExitCode() != r.code || !match(r.out, got.out) || !match(r.err, got.err) {
		t.Errorf("plash %s: %v\nstdout: %q, want %q\nstderr: %q, want %q", r.words, got.state, got.out, r.out, got.err, r.err)
	}
}

// TestRefusals: what each command says of words that it cannot take, and of
// what is not there. What they do is in testdata/commands.txt.
func TestRefusals(t *testing.T) {
	each(t, everyone, 2*time.Minute, func(t *testing.T) {
		t.Chdir(writable(t))
		data := os.Getenv("PLASH_DATA")

		// All but those that make an image out of nothing need a data directory,
		// and none of these makes it.
		for _, words := range []string{
			"run 1", "build 1 true", "mount 1 .", "mounted 1 true", "nodepath 1", "parent 1", "id 0", "rm 1",
			"map key", "map key 1", "map key ''", "clean", "purge --yes", "shrink", "ls", "ls --json", "diff 1",
			"history 1", "push:dir 1 x", "push:tarfile 1", "run:persist 1 dir true", "check 1 /etc", "runopts 1 true",
			"data true", "cache id 1",
		} {
			row{words, 1, "", "plash error: " + regexp.QuoteMeta(data) + ": No such file or directory\n"}.check(t)
		}
		for _, words := range []string{"recall run true", "do run true", "noid", "noid run true"} {
			row{words, 1, "", "plash error: no image in this session\n"}.check(t)
		}
		row{"data", 0, regexp.QuoteMeta(data) + "\n", ""}.check(t)
		if _, err := os.Stat(data); err == nil {
			t.Error("a data directory was made")
		}
		id := needTiny(t)

		// Missing and surplus arguments.
		for command, others := range map[string]string{
			"init": "x", "version": "x", "ls": "x", "id": "|1 2", "parent": "|1 2", "rm": "|1 2", "map": "|a 1 2",
			"mount": "|1|1 2 3 4", "umount": "|a b", "mounted": "", "nodepath": "|1 2", "push:dir": "|1|1 2 3",
			"push:tarfile": "|1 2 3", "run": "", "run:persist": "|1", "chroot": "", "stack": "|1|1 2 3",
			"check": "|1|1 2 3", "clean": "x", "purge": "x", "shrink": "x", "mkdtemp": "x", "cache": "", "recall": "",
			"do": "", "pull:url": "|a b", "pull:tarfile": "a b", "pull:host": "x", "pull:lxc": "|a b|--list --dry",
			"help": "a b", "help-macros": "x", "doctor": "x", "diff": "|1 2", "history": "|1 2", "completion": "",
			"build": "", "union": "", "runopts": "|-b|-c", "b": "--from 1",
			"create": "", "import-tar": "a b", "import-url": "", "import-lxc": "", "import-lxcimages": "", "copy": "1",
			"export-tar": "", "add-layer": "1", "with-mount": "", "runb": "1", "cached": "",
		} {
			for words := range strings.SplitSeq(others, "|") {
				row{command + " " + strings.TrimPrefix(words, "|"), 1, "", "usage: plash " + command + "( [^\n]*)?\n"}.check(t)
				if words == "-" {
					row{command, 1, "", "usage: plash " + command + "( [^\n]*)?\n"}.check(t)
				}
			}
		}

		// In an id's place anything is an id; 0 is none but for some.
		ids := []string{"run @ true", "build @ true", "mount @ .", "mounted @ true", "nodepath @", "parent @", "rm @",
			"map key @", "diff @", "history @", "push:dir @ x", "push:tarfile @", "run:persist @ dir true",
			"check @ /etc", "runopts @ true", "create @ true", "with-mount @ true", "copy @ x", "export-tar @", "runb @ dir true"}
		for _, words := range ids {
			for bad, why := range map[string]string{
				"0": "0: special root image", "999": "no image: 999", "abc": "abc: must be a positive number",
				"-1": "-1: must be a positive number", "--": "--: must be a positive number", "1.0": "1.0: must be a positive number",
				"''": "'': must be a positive number", "--nope": "--nope: no such option, and an id must be a positive number",
			} {
				if bad == "''" && strings.HasPrefix(words, "map") || bad == "--nope" && strings.Contains("build create", strings.Fields(words)[0]) {
					continue // unsets; a macro
				}
				row{strings.ReplaceAll(words, "@", bad), 1, "", "plash error: " + why + "\n"}.check(t)
			}
		}
		row{"id 0", 0, "0\n", ""}.check(t)
		row{"nodepath 0 --allow-0", 0, regexp.QuoteMeta(data) + "/layer/0\n", ""}.check(t)

		// Paths that are not there, or something else.
		if err := os.WriteFile("file", nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir("dir", 0o755); err != nil {
			t.Fatal(err)
		}
		for _, r := range []row{
			{"pull:tarfile nope", 1, "", "plash error: nope: No such file or directory\n"},
			{"stack 1 nope", 1, "", "plash error: nope: No such file or directory\n"},
			{"stack 1 file", 1, "", "plash error: file: Not a directory\n"},
			{"check 1 nope", 1, "", "plash error: nope: No such file or directory\n"},
			{"chroot nope true", 1, "", "plash error: [^\n]*nope: No such file or directory\n"},
			{"chroot file true", 1, "", "plash error: [^\n]*file: Not a directory\n"},
			{"mount 1 nope", 1, "", "plash error: nope: No such file or directory\n"},
			{"mount 1 dir nope/nope", 1, "", "plash error: nope/nope: No such file or directory\n"},
			{"umount nope", 1, "", "plash error: nope: No such file or directory\n"},
			{"umount dir", 1, "", "plash error: dir: not mounted\n"},
			{"push:dir 1 file", 1, "", "plash error: file: Not a directory\n"},
			{"push:tarfile 1 dir", 1, "", "plash error: dir: Is a directory\n"},
			{"push:tarfile 1 nope/x", 1, "", "plash error: nope/x: No such file or directory\n"},
			{"run:persist 1 nope/nope true", 1, "", "plash error: nope/nope: No such file or directory\n"},
			{"run:persist 1 file true", 1, "", "plash error: [^\n]*file: Not a directory\n"},
			{"stack 1 ''", 1, "", "plash error: '': No such file or directory\n"},
			{"pull:tarfile ''", 1, "", "plash error: '': No such file or directory\n"},
			{"push:tarfile 1 ''", 1, "", "plash error: '': No such file or directory\n"},
			{"run:persist 1 '' true", 1, "", "plash error: '': No such file or directory\n"},
			{"runopts -c '' 1 true", 1, "", "plash error: '': No such file or directory\n"},
			{"check 1 ''", 1, "", "plash error: '': No such file or directory\n"},
			{"map a/b", 1, "", "plash error: a/b: must not contain a slash\n"},
			{"map a/b 1", 1, "", "plash error: a/b: must not contain a slash\n"},
			{"map '' 1", 1, "", "plash error: [^\n]+\n"},
			{"map . 1", 1, "", "plash error: [^\n]+\n"},
			{"map .. 1", 1, "", "plash error: [^\n]+\n"},

			// A program that is not there, or cannot be executed, wherever.
			{"run 1 nope", 127, "", "plash error: nope: command not found\n"},
			{"run 1 ''", 127, "", "plash error: '': command not found\n"},
			{"run 1 /etc/motd", 126, "", "plash error: /etc/motd: Permission denied\n"},
			{"run 1 /etc", 126, "", "plash error: /etc: Permission denied\n"},
			{"run:persist 1 dir nope", 127, "", "plash error: nope: command not found\n"},
			{"mounted 1 nope", 127, "", "plash error: nope: command not found\n"},
			{"mounted 1 ''", 127, "", "plash error: '': command not found\n"},
			{"mounted 1 etc/motd", 126, "", "plash error: etc/motd: Permission denied\n"},
			{"sudo nope", 127, "", "plash error: nope: command not found\n"},
			{"sudo /etc/passwd", 126, "", "plash error: /etc/passwd: Permission denied\n"},
			{"data nope", 127, "", "plash error: nope: command not found\n"},
			{"chroot / nope", 127, "", "plash error: nope: command not found\n"},
			{"chroot / /etc/passwd", 126, "", "plash error: /etc/passwd: Permission denied\n"},
			{"build 1 nope", 1, "", "plash error: nope: command not found\n"},
			{"build 1 /etc/motd", 1, "", "plash error: /etc/motd: Permission denied\n"},
			{"create 1 nope", 1, "", "plash error: nope: command not found\n"},

			{"purge", 1, "", "Delete all data in [^\n]*\n?plash error: purge: not confirmed\n"},
		} {
			r.check(t)
		}
		if list := images(t); len(list) != 2 || list[1] != id {
			t.Errorf("images: %q", list)
		}
	})
}

// TestEndings: whatever runs a program ends as that does.
func TestEndings(t *testing.T) {
	each(t, everyone, 2*time.Minute, func(t *testing.T) {
		id := needTiny(t)
		dir := writable(t)
		for _, words := range [][]string{
			{"run", id}, {"run:persist", id, dir}, {"runopts", id}, {"mounted", id}, {"sudo"}, {"data"}, {"chroot", "/"},
			{"--from", id, "--"}, {"b", "run", "--from", id, "--"}, {"noid", "run"},
		} {
			plash(t, "cache", "build", id, "true").id() // for noid
			plash(t, append(words, "sh", "-c", "exit 42")...).code(42)
			// A shell says 128 and the signal's number of a program that died.
			script := `plash "$@"; echo $?`
			words = append([]string{"sh", "-c", script, "sh"}, append(words, "sh", "-c", "kill -TERM $$")...)
			if r := run(t, words...); !strings.HasSuffix(r.out, "143\n") {
				r.fatal("to die of SIGTERM")
			}
		}
	})
}

// TestDataDirectory: what is where in it, and that it can be moved.
func TestDataDirectory(t *testing.T) {
	each(t, everyone, 2*time.Minute, func(t *testing.T) {
		needTiny(t)
		plash(t, "build", "1", "echo two >/two").prints("2")
		plash(t, "build", "1", "false").code(1)
		plash(t, "build", "2", "ln -s /etc/motd /link").prints("3")
		plash(t, "map", "key", "3").ok()
		plash(t, "map", "gone", "3").ok()
		data := os.Getenv("PLASH_DATA")
		for link, want := range map[string]string{
			"index/0": "../layer/0", "index/1": "../layer/0/1", "index/2": "../layer/0/1/2", "index/3": "../layer/0/1/2/3", "map/key": "../layer/0/1/2/3",
		} {
			if got, err := os.Readlink(filepath.Join(data, link)); err != nil || got != want {
				t.Errorf("%s: %q, %v, want %q", link, got, err, want)
			}
		}
		if info, err := os.Stat(filepath.Join(data, "id_counter")); err != nil || info.Size() != 3 {
			t.Errorf("id_counter: %v, %v", info, err)
		}
		for _, file := range []string{"layer/0/_data/root", "layer/0/1/_data/root/etc/motd", "layer/0/1/2/_data/root/two", "tmp", "mnt"} {
			if _, err := os.Stat(filepath.Join(data, file)); err != nil {
				t.Error(err)
			}
		}
		noTemps(t)
		r := run(t, "sh", "-c", "echo plashtmp_$(ps -o sid= -p $$ | tr -d ' ')_$$_; plash mkdtemp; plash clean; ls $PLASH_DATA/tmp")
		lines := strings.Split(r.ok(), "\n")
		if len(lines) != 3 || lines[1] != data+"/tmp/"+lines[2] || !strings.HasPrefix(lines[2], lines[0]) || len(lines[2]) < len(lines[0])+6 {
			r.fatal("a directory with the session and the process that called plash in its name, as long as that lives")
		}
		plash(t, "clean").ok()
		moved := data + "-moved"
		if err := os.Rename(data, moved); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PLASH_DATA", moved)
		plash(t, "run", "3", "cat", "/link", "/two").prints("a tiny system\ntwo")
		plash(t, "nodepath", "3").prints(moved + "/layer/0/1/2/3")
		plash(t, "rm", "3").ok()
		plash(t, "map", "key").prints("") // dangling
		plash(t, "build", "2", "true").prints("4")

		// $HOME/.plashdata is the usual one; without HOME that of the user's home.
		t.Setenv("PLASH_DATA", "")
		plash(t, "data").prints(os.Getenv("HOME") + "/.plashdata")
		t.Setenv("PLASH_DATA", "a/b")
		plash(t, "data").prints("a/b")
		os.Unsetenv("PLASH_DATA")
		os.Unsetenv("HOME")
		home := run(t, "sh", "-c", "getent passwd $(id -u) | cut -d: -f6").ok()
		plash(t, "data").prints(home + "/.plashdata")
		t.Setenv("PLASH_DATA", moved)
	})
}
