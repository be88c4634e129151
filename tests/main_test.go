// Package tests holds the end to end tests: they build plash, and use it as its
// users do, as root and as ordinary users.
//
// Each test runs in a process of its own for each kind of user (see each), with
// a home and a data directory of its own; the parent, which is the subreaper of
// all that a test starts, then demands that no process and no mount is left,
// and removes the rest whatever happened. tests/setup.sh installs the packages
// and makes the users that this needs.
package tests

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"plash/internal/usertest"
)

// Places of this test run. base is a temporary directory that every user may
// enter; in a test's own process it comes from the parent.
var (
	base = os.Getenv("PLASH_TEST_BASE")
	bin  = filepath.Join(base, "bin")         // holds plash, and is in PATH
	tiny = filepath.Join(base, "busybox.tar") // a root file system of 2 MB, see makeTiny
)

// inChild tells whether this is a test's own process.
func inChild() bool { return os.Getenv("PLASH_TEST_BASE") != "" }

func TestMain(m *testing.M) {
	usertest.HearHangups()
	if inChild() {
		os.Exit(m.Run())
	}
	usertest.OwnMounts()
	code, err := prepareAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// prepareAndRun builds what the tests need in base, runs them, and removes it.
func prepareAndRun(m *testing.M) (code int, err error) {
	// Set-up comes first so that even it leaves nothing behind.
	if base, err = os.MkdirTemp("", "plash-test-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(base)
	bin, tiny = filepath.Join(base, "bin"), filepath.Join(base, "busybox.tar")
	if err := os.Chmod(base, 0o755); err != nil {
		return 1, err
	}
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "plash"), "../cmd/plash")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return 1, fmt.Errorf("building plash: %w", err)
	}
	// The test's own binary lies where only its user may go.
	if err := copyFile("/proc/self/exe", filepath.Join(base, "tests"), 0o755); err != nil {
		return 1, err
	}
	if err := os.CopyFS(filepath.Join(base, "testdata"), os.DirFS("testdata")); err != nil {
		return 1, err
	}
	if err := makeTiny(); err != nil {
		return 1, err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

func copyFile(from, to string, mode fs.FileMode) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, mode)
}

// makeTiny makes the archive tiny: a shell and the usual small programs, all
// one static busybox. Without one on this machine there is no archive, and the
// tests that need it say so.
func makeTiny() error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil
	}
	list, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return err
	}
	root := filepath.Join(base, "busybox")
	for _, dir := range []string{"bin", "etc", "usr/bin", "var/lib"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := copyFile(busybox, filepath.Join(root, "bin/busybox"), 0o755); err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		if name != "busybox" {
			os.Symlink("busybox", filepath.Join(root, "bin", name))
		}
	}
	files := map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
		"etc/group":  "root:x:0:\n",
		"etc/motd":   "a tiny system\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	tar := exec.Command("tar", "-C", root, "--owner=0", "--group=0", "-cf", tiny, ".")
	if out, err := tar.CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	return os.RemoveAll(root)
}

// A kind is one kind of user.
type kind string

const (
	root     kind = "root"
	ordinary kind = "plashtest"  // has subordinate ids
	single   kind = "plashtest1" // has none: only its own id is mapped
)

var everyone = []kind{root, ordinary, single}

// each runs f as each kind of user, in a process of its own. Run by an ordinary
// user, the tests can only be that one.
func each(t *testing.T, kinds []kind, limit time.Duration, f func(t *testing.T)) {
	t.Helper()
	if inChild() {
		f(t)
		return
	}
	if os.Getuid() != 0 {
		t.Run("self", func(t *testing.T) { runAs(t, nil, limit) })
		return
	}
	for _, k := range kinds {
		t.Run(string(k), func(t *testing.T) {
			u, err := user.Lookup(string(k))
			if err != nil {
				t.Skipf("no user %s on this machine: tests/setup.sh makes it", k)
			}
			runAs(t, u, limit)
		})
	}
}

// runAs runs the test t once more in a process of user u (nil: this one), and
// checks afterwards that nothing is left of it.
func runAs(t *testing.T, u *user.User, limit time.Duration) {
	dir := filepath.Join(base, strings.ReplaceAll(t.Name(), "/", "-"))
	for _, d := range []string{dir, dir + "/home", dir + "/tmp"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	name, _, _ := strings.Cut(t.Name(), "/")
	child := exec.Command(filepath.Join(base, "tests"), "-test.run=^"+name+"$", "-test.v",
		"-test.count=1", "-test.timeout="+limit.String())
	child.Dir = dir
	who := "root"
	// In a session of its own it has no terminal, as on a build machine.
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if u == nil {
		if self, err := user.Current(); err == nil {
			who = self.Username
		}
	} else {
		who = u.Username
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		child.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		for _, d := range []string{dir, dir + "/home", dir + "/tmp"} {
			if err := os.Chown(d, uid, gid); err != nil {
				t.Fatal(err)
			}
		}
	}
	child.Env = []string{
		"PATH=" + bin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + dir + "/home", "USER=" + who, "LOGNAME=" + who, "SHELL=/bin/sh", "TERM=dumb",
		"LC_ALL=C.UTF-8", "TMPDIR=" + dir + "/tmp", "PLASH_DATA=" + dir + "/data",
		"PLASH_TEST_BASE=" + base, "PLASH_TEST_CACHE=" + cacheDir(),
		"PLASH_TEST_CHAOS=" + os.Getenv("PLASH_TEST_CHAOS"),
	}
	var out bytes.Buffer
	child.Stdout, child.Stderr = &out, &out
	// A process left behind may keep the pipe open.
	child.WaitDelay = time.Second
	defer cleanUp(t, dir)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	// The test's own limit prints where it hangs; this one is for the rest.
	timer := time.AfterFunc(limit+30*time.Second, func() { child.Process.Kill() })
	err := child.Wait()
	timer.Stop()
	switch {
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		t.Errorf("as %s: %v\n%s", who, err, out.String())
	case strings.Contains(out.String(), "--- SKIP: "+name+" "):
		t.Skip(skipReason(out.String()))
	case testing.Verbose():
		t.Log(out.String())
	}
}

// skipReason finds the reason in a skipped test's output, where it stands in
// the line before the verdict.
func skipReason(out string) string {
	before, _, _ := strings.Cut(out, "--- SKIP: ")
	lines := strings.Split(strings.TrimSpace(before), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// cleanUp removes all that a test left: processes and mounts, which are errors
// too, and its directory.
func cleanUp(t *testing.T, dir string) {
	left := orphans()
	for deadline := time.Now().Add(30 * time.Second); len(left) > 0 && time.Now().Before(deadline); left = orphans() {
		time.Sleep(20 * time.Millisecond)
	}
	for ; len(left) > 0; left = orphans() {
		for _, pid := range left {
			command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			t.Errorf("process left behind: %d %q", pid, command)
			unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, mount := range mountsBelow(dir) {
		t.Errorf("mount left behind: %s", mount)
		if unix.Unmount(mount, unix.MNT_DETACH) != nil {
			exec.Command("fusermount3", "-uz", mount).Run()
		}
	}
	if os.RemoveAll(dir) != nil {
		// Files of subordinate ids, and we are not root.
		exec.Command(filepath.Join(bin, "plash"), "sudo", "rm", "-rf", dir).Run()
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Errorf("%s cannot be removed", dir)
	}
}

// orphans returns this process's children, which are what a test left behind,
// and reaps those that are dead.
func orphans() []int {
	var alive []int
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, task := range tasks {
		list, _ := os.ReadFile(task)
		for _, word := range strings.Fields(string(list)) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				continue
			}
			if reaped, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err == nil && reaped == 0 {
				alive = append(alive, pid)
			}
		}
	}
	return alive
}

// mountsBelow returns the mount points below dir, the innermost first.
func mountsBelow(dir string) []string {
	var below []string
	info, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(info)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			below = append([]string{fields[4]}, below...)
		}
	}
	return below
}

// cacheDir is where what is costly to make is kept from one run to the next.
func cacheDir() string {
	if dir := os.Getenv("PLASH_TEST_CACHE"); dir != "" {
		return dir
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("plash-test-cache-%d-%s", os.Getuid(), runtime.GOARCH))
}
