package fs_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"plash/internal/usertest"
)

var crashAll = flag.Bool("crash.all", false, "kill the server before each of its system calls, not before some")

// A change is one operation of a program that is done when it returns.
type change struct {
	name string
	do   func(path func(string) string) error
}

// changes go through all by which the upper layer changes.
var changes = []change{
	{"chmod a lower file", on("file", func(p string) error { return os.Chmod(p, 0o640) })},
	{"chown a lower directory", on("dir/sub", func(p string) error { return os.Chown(p, 3, 4) })},
	{"write a lower file", on("big", func(p string) error { return writeSync(p, 0, "written") })},
	{"truncate a lower file", on("deep/er/est/f", func(p string) error { return os.Truncate(p, 10) })},
	{"write a lower hard link", on("hard1", func(p string) error { return writeSync(p, os.O_APPEND, "more") })},
	{"look its other name up", on("hard2", func(p string) error { _, err := os.Stat(p); return err })},
	{"set an attribute", on("deep/er/g", func(p string) error { return unix.Setxattr(p, "user.x", []byte("y"), 0) })},
	{"rename a lower directory", from("ren", "moved")},
	{"rename it back", from("moved", "ren")},
	{"rename it away", from("ren", "moved")},
	{"unlink a lower file", on("del/p", os.Remove)},
	{"unlink another", on("del/q", os.Remove)},
	{"rmdir a lower directory", on("del", os.Remove)},
	{"mkdir over a whiteout", on("del", func(p string) error { return os.Mkdir(p, 0o750) })},
	{"create", on("del/new", func(p string) error { return writeSync(p, os.O_CREATE|os.O_EXCL, "") })},
	{"write", on("del/new", func(p string) error { return writeSync(p, 0, "new") })},
	{"empty a directory", on("emp/e", os.Remove)},
	{"rename a directory over one with whiteouts", from("moved", "emp")},
	{"empty another directory", on("target/t", os.Remove)},
	{"rename a lower directory over one with whiteouts", from("dir", "target")},
	{"rename over a lower file", from("file", "over")},
	{"rename a lower file over an upper one", from("plain", "over")},
	{"create over a whiteout", on("file", func(p string) error { return writeSync(p, os.O_CREATE|os.O_EXCL, "") })},
	{"link over a whiteout", func(path func(string) string) error { return os.Link(path("over"), path("plain")) }},
	{"symlink over a whiteout", on("dir", func(p string) error { return os.Symlink("target", p) })},
	{"unlink what lies over a lower directory", on("dir", os.Remove)},
	{"rename a directory to a whiteout", from("target", "dir")},
	{"rename a lower symlink", from("link", "link2")},
	{"exchange a lower directory and a file", func(path func(string) string) error {
		return unix.Renameat2(unix.AT_FDCWD, path("exch"), unix.AT_FDCWD, path("over"), unix.RENAME_EXCHANGE)
	}},
	{"mkdir", on("made", func(p string) error { return os.Mkdir(p, 0o755) })},
	{"rename a lower file into it", from("deep/er/est/h", "made/h")},
	{"mkdir in it", on("made/in", func(p string) error { return os.Mkdir(p, 0o755) })},
	{"rename a directory up", from("made/in", "in")},
	{"rmdir an upper directory", on("in", os.Remove)},
	{"make a fifo", on("fifo", func(p string) error { return unix.Mkfifo(p, 0o600) })},
	{"remove an attribute", on("deep/er/g", func(p string) error { return unix.Removexattr(p, "user.x") })},
	{"let others in", on("made", func(p string) error { return os.Chmod(p, 0o777) })},
	{"create as another user", as(1000, on("made/theirs", func(p string) error { return writeSync(p, os.O_CREATE|os.O_EXCL, "") }))},
	{"mkdir as another user", as(1000, on("made/theirdir", func(p string) error { return os.Mkdir(p, 0o700) }))},
	{"symlink as another user", as(1000, on("made/theirlink", func(p string) error { return os.Symlink("x", p) }))},
	{"unlink a hard link", on("hard1", os.Remove)},
	{"unlink the other", on("hard2", os.Remove)},
	{"rename over a whiteout", from("big", "hard1")},
	{"rename a lower file", from("deep/er/g", "g")},
	{"mkdir in a new directory", on("made/two", func(p string) error { return os.Mkdir(p, 0o755) })},
	{"rename it to a whiteout", from("made/two", "ren")},
	{"rename a lower directory into another", from("deep/er", "del/er")},
}

func on(name string, f func(path string) error) func(func(string) string) error {
	return func(path func(string) string) error { return f(path(name)) }
}

func from(a, b string) func(func(string) string) error {
	return func(path func(string) string) error { return unix.Rename(path(a), path(b)) }
}

// as does f with the ids of another user.
func as(id int, f func(func(string) string) error) func(func(string) string) error {
	return func(path func(string) string) error {
		// The thread must not end, as one does that is never unlocked: that
		// kills a server which it started.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer unix.SetfsgidRetGid(0)
		defer unix.SetfsuidRetUid(0)
		unix.SetfsgidRetGid(id)
		unix.SetfsuidRetUid(id)
		return f(path)
	}
}

func writeSync(path string, flags int, data string) error {
	f, err := os.OpenFile(path, flags|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(data); err != nil || data == "" {
		return err
	}
	return f.Sync()
}

// A crashForm is a way in which the upper layer is written.
type crashForm struct {
	name                         string
	noDevices, redirect, indexed bool
}

func crashStack(t *testing.T, form crashForm) *stack {
	s := newStack(t, 2)
	s.change = func(c *serveConfig) { c.NoDevices, c.Redirect = form.noDevices, form.redirect }
	s.indexed = form.indexed
	for _, dir := range []string{s.base, filepath.Dir(s.base)} { // let others in
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, s.lowers[1], tree("file: text", "dir/a: 1", "dir/sub/b: 2", "hard1: shared", "hard2 = hard1", "ren/x: 3", "ren/sub/y: 4", "ren/z", "del/p", "del/q",
		"emp/e", "emp/lower", "target/t", "over: o", "plain: p", "deep/er/est/f: "+strings.Repeat("f", 5000), "deep/er/est/h: h", "deep/er/g: g",
		"big: "+strings.Repeat("0123456789abcdef", 20000), "link -> file", "exch/k: k"))
	fill(t, s.lowers[0], tree("emp/", "dir/top: 5", "ren/top: 6"))
	setTimes(t, s.lowers[1])
	if err := os.Remove(filepath.Join(s.lowers[1], "emp/lower")); err != nil {
		t.Fatal(err)
	}
	return s
}

var mtime = regexp.MustCompile(` mtime .* UTC`)

// state is the tree as it matters after a crash. Times may be new although
// the change is not there yet: what copies up sets them back at last.
func state(t *testing.T, root string) []string { return withoutTimes(dump(t, root)) }

func withoutTimes(lines []string) []string {
	lines = slices.Clone(lines)
	for i := range lines {
		lines[i] = mtime.ReplaceAllString(lines[i], "")
	}
	return lines
}

// TestCrash: a server that is killed before any of its system calls leaves an
// upper layer in which all changes are that programs have been told of, and
// the one under way wholly or not at all; for us and for the kernel. With an
// index, all names of a hard-linked file have a change.
//
// Where whiteouts are files some changes take more than one step. A rename that
// is interrupted then may leave the file both names, or an empty directory or
// file with one, but never a lower object that had been changed or removed.
func TestCrash(t *testing.T) {
	if os.Geteuid() != 0 || usertest.Active() {
		t.Skip("acts for several users, and mounts by the kernel: real root's")
	}
	states := make([][]string, len(changes)+1)
	linked := make([][]string, len(changes)+1) // with indexes
	for k := range states {
		states[k], linked[k] = stateAfter(t, k, crashForm{}), stateAfter(t, k, crashForm{indexed: true})
		if k > 0 && slices.Equal(states[k], states[k-1]) {
			t.Errorf("%s: nothing is seen of it", changes[k-1].name)
		}
	}
	step := 7
	if *crashAll {
		step = 1
	}
	for _, form := range []crashForm{{name: "plain"}, {name: "redirects", redirect: true}, {name: "no devices", noDevices: true}, {name: "indexes", indexed: true}} {
		states := states
		if form.indexed {
			states = linked
		}
		finished := false
		n := 1 - step
		for !finished {
			n += step
			t.Run(fmt.Sprintf("%s/%d", form.name, n), func(t *testing.T) {
				finished = true // also if it fails
				finished = crashAt(t, n, form, states)
			})
		}
		t.Logf("%s: killed before every %d. of about %d system calls", form.name, step, n)
	}
}

// stateAfter returns the tree after the first n changes, at the next mount.
func stateAfter(t *testing.T, n int, form crashForm) []string {
	s := crashStack(t, form)
	s.mount()
	var fs unix.Statfs_t
	if err := unix.Statfs(s.mnt, &fs); err != nil { // or it might end before it has begun
		t.Fatal(err)
	}
	for _, c := range changes[:n] {
		if err := c.do(s.path); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
	}
	s.remount()
	defer s.unmount()
	return state(t, s.mnt)
}

// crashAt kills the server before its nth call; finished says that there were
// less.
func crashAt(t *testing.T, n int, form crashForm, states [][]string) (finished bool) {
	s := crashStack(t, form)
	var mu sync.Mutex // guards these three
	calls, where := 0, ""
	over := false // what the server does by itself, as times are restored, does not count
	s.onCall = func(c *watchedCall) bool {
		mu.Lock()
		defer mu.Unlock()
		if calls++; calls == n && !over {
			where = fmt.Sprintf("call %d, number %d", n, c.nr)
			s.server.Process.Kill()
			return false
		}
		return true
	}
	done := 0
	if s.launch(s.config()) == "mounted\n" {
		for _, c := range changes {
			if err := c.do(s.path); err != nil {
				break
			}
			done++
		}
	}
	mu.Lock()
	over = true
	mu.Unlock()
	if done == len(changes) && where == "" {
		s.unmount()
		return true
	}
	s.onCall = nil
	unix.Unmount(s.mnt, unix.MNT_DETACH)
	s.server.Wait()
	s.server = nil
	if where == "" {
		t.Fatalf("%q failed, and nobody was killed", changes[done].name)
	}
	last := min(done, len(changes)-1) // all may be done just as it is killed
	where += " in " + changes[last].name

	s.mount()
	if left, _ := os.ReadDir(filepath.Join(s.base, "work/work")); len(left) > 0 {
		t.Errorf("%s: left in the work directory: %v", where, left)
	}
	got := state(t, s.mnt)
	s.unmount()
	before, after := states[done], states[last+1]
	switch {
	case slices.Equal(got, before), slices.Equal(got, after):
	case form.noDevices && between(got, before, after):
	default:
		diff(t, where+": the tree is not that before it, and", before, got)
		diff(t, where+": not that after it, and", after, got)
	}
	options := "userxattr"
	switch {
	case form.noDevices:
		return false // the kernel does not know such whiteouts in an upper
	case form.redirect:
		options = "redirect_dir=on"
	}
	s.kernelMountWith(options, s.upper, filepath.Join(s.base, "work"), s.mnt)
	diff(t, where+": the kernel's view", strip(got), strip(state(t, s.mnt)))
	unix.Unmount(s.mnt, 0)
	return false
}

// between reports whether got has all lines that before and after have both,
// and else only lines of either, or empty objects as the server makes them.
func between(got, before, after []string) bool {
	for _, line := range before {
		if slices.Contains(after, line) && !slices.Contains(got, line) {
			return false
		}
	}
	for _, line := range got {
		name, attrs, _ := strings.Cut(line, " ")
		empty := strings.HasPrefix(attrs, "100600 0:0 rdev 0 size 0 ") ||
			strings.HasPrefix(attrs, "40700 0:0 rdev 0 ") && !slices.ContainsFunc(got, func(l string) bool { return strings.HasPrefix(l, name+"/") })
		if !empty && !slices.Contains(before, line) && !slices.Contains(after, line) {
			return false
		}
	}
	return true
}
