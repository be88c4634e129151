package launcher_test

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"plash/internal/tree"
	"plash/internal/usertest"
	"plash/launcher"
	"plash/store"
	"plash/union"
)

// The tests run the launcher in processes of their own, as different users:
// copies of this test program that were given a spec.
func TestMain(m *testing.M) {
	usertest.HearHangups()
	launcher.Init()
	if len(os.Args) > 2 && os.Args[1] == "plash" {
		if err := plash(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, "plash error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 2 && os.Args[1] == "probe" {
		dir, err := os.Getwd()
		fmt.Println(dir, err)
		os.Exit(0)
	}
	usertest.OwnMounts()
	os.Exit(m.Run())
}

// spec is what a copy of this program is to do; it lies in a file.
type spec struct {
	Data           string // the data directory
	Layers         []union.Layer
	Dir, Changes   string
	View           launcher.View
	Build          bool
	Binds          []launcher.Bind
	NoDefaultBinds bool
	Mount, Unmount bool
	Reenter        bool
	Chatty         bool
}

func plash(file string, args []string) error {
	var sp spec
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &sp)
	}
	if err != nil {
		return err
	}
	if sp.Reenter && launcher.Unprivileged() {
		return launcher.Reenter()
	}
	if sp.Unmount {
		return launcher.Unmount(args[0])
	}
	if sp.Reenter {
		return syscall.Exec("/bin/sh", append([]string{"sh"}, args...), os.Environ())
	}
	s, err := store.Init(sp.Data)
	if err != nil {
		return err
	}
	c := launcher.Config{
		Layers: sp.Layers, Dir: sp.Dir, Changes: sp.Changes, Mountpoint: s.Mountpoint(),
		View: sp.View, Build: sp.Build, Keep: sp.Build, Binds: sp.Binds, NoDefaultBinds: sp.NoDefaultBinds,
		Command: args, DataDir: sp.Data,
	}
	if sp.Chatty {
		c.Verbose = func(format string, args ...any) { fmt.Fprintf(os.Stderr, "plash: "+format+"\n", args...) }
	}
	if sp.Mount {
		return launcher.MountHost(c, args[0], func() { fmt.Println("mounted") })
	}
	if c.Changes == "" && c.View == launcher.Container && c.Dir == "" {
		temp, err := s.TempDir()
		if err != nil {
			return err
		}
		c.Temp, c.Changes = temp, temp.Path
	}
	status, err := launcher.Run(c)
	if err != nil {
		return err
	}
	if sp.Build {
		// What it made stays for the test to look at.
		fmt.Println("changes:", c.Changes)
		out, _ := exec.Command("find", filepath.Join(c.Changes, "data"), "-mindepth", "1", "-printf", "%P\n").CombinedOutput()
		fmt.Print(string(out))
		if err := c.Temp.Remove(); err != nil {
			return err
		}
	}
	status.Exit()
	return nil
}

// A caller is a user in whose name a test runs programs.
type caller struct {
	t        *testing.T
	name     string
	uid, gid int
	dir      string // the test's, which belongs to the caller
	program  string // the copy of this program
}

// host is the running system as an image.
var host = []union.Layer{{Path: "/", Live: true}}

// asEach runs a test as root, as a user with subordinate ids and as one
// without, as far as they are there; started by an ordinary user, as that one.
func asEach(t *testing.T, test func(t *testing.T, c *caller)) {
	if os.Geteuid() != 0 {
		as(t, strings.TrimSpace(output(t, "id", "-un")), test)
		return
	}
	for _, name := range []string{"root", "plashtest", "plashtest1"} {
		t.Run(name, func(t *testing.T) { as(t, name, test) })
	}
}

func as(t *testing.T, name string, test func(t *testing.T, c *caller)) {
	c := &caller{t: t, name: name}
	c.uid, _ = strconv.Atoi(strings.TrimSpace(output(t, "id", "-u", name)))
	c.gid, _ = strconv.Atoi(strings.TrimSpace(output(t, "id", "-g", name)))
	info, err := os.Stat("/dev/fuse")
	if err != nil {
		t.Skip("no /dev/fuse")
	}
	if c.uid != 0 && info.Mode()&0o006 != 0o006 {
		t.Skip("/dev/fuse is not for everybody (sudo chmod 666 /dev/fuse)")
	}
	// Not t.TempDir, which others may not enter.
	if c.dir, err = os.MkdirTemp("/tmp", "plash-launcher-test"); err != nil {
		t.Fatal(err)
	}
	c.program = filepath.Join(c.dir, "program")
	t.Cleanup(c.cleanUp)
	self, err := os.Executable()
	if err == nil {
		err = copyFile(self, c.program)
	}
	if err == nil {
		err = os.Chmod(c.dir, 0o755)
	}
	if err == nil {
		err = os.Chown(c.dir, c.uid, c.gid)
	}
	if err != nil {
		t.Fatal(err)
	}
	test(t, c)
	if !t.Failed() {
		c.nothingLeft()
	}
}

// static skips a test that needs this program to run without libraries.
func (c *caller) static() {
	c.t.Helper()
	f, err := elf.Open(c.program)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	if libs, _ := f.ImportedLibraries(); len(libs) > 0 {
		c.t.Skip("this test program was built with cgo (CGO_ENABLED=0 go test)")
	}
}

// output returns what a program prints that asks for a user; without him the
// test is skipped.
func output(t *testing.T, words ...string) string {
	t.Helper()
	out, err := exec.Command(words[0], words[1:]...).Output()
	if err != nil {
		t.Skip(words, err, "(tests/setup.sh makes the users)")
	}
	return string(out)
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o755)
}

// processes returns the ids of all processes that execute the test's program.
func (c *caller) processes() []int {
	var pids []int
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		if exe, err := os.Readlink(link); err == nil && strings.HasPrefix(exe, c.program) {
			pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

// cleanUp ends and removes all that a test has left.
func (c *caller) cleanUp() {
	for range 50 {
		pids := c.processes()
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, dir := range c.mounts() {
		unix.Unmount(dir, unix.MNT_DETACH)
	}
	if err := tree.Remove(c.dir); err != nil {
		c.t.Error(err)
	}
}

// mounts returns what is mounted below the test's directory.
func (c *caller) mounts() []string {
	text, _ := os.ReadFile("/proc/self/mounts")
	var dirs []string
	for line := range strings.SplitSeq(string(text), "\n") {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], c.dir) {
			dirs = append(dirs, f[1])
		}
	}
	return dirs
}

// nothingLeft checks that no process, mount or temporary directory is left a
// moment after a test.
func (c *caller) nothingLeft() {
	c.t.Helper()
	c.eventually("processes, mounts or temporary directories are left", func() bool {
		temps, _ := filepath.Glob(filepath.Join(c.dir, "data/tmp/*"))
		return len(c.processes()) == 0 && len(c.mounts()) == 0 && len(temps) == 0
	})
}

func (c *caller) eventually(what string, f func() bool) {
	c.t.Helper()
	for range 500 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.t.Error(what)
}

// command returns the program that does sp with args, not started yet. It is
// killed after a while.
func (c *caller) command(sp spec, args ...string) *exec.Cmd {
	c.t.Helper()
	return c.shell(append([]string{c.program, "plash", c.spec(sp)}, args...)...)
}

// spec writes sp to a file.
func (c *caller) spec(sp spec) string {
	c.t.Helper()
	if sp.Data == "" {
		sp.Data = filepath.Join(c.dir, "data")
	}
	text, err := json.Marshal(sp)
	if err != nil {
		c.t.Fatal(err)
	}
	file, err := os.CreateTemp(c.dir, "spec")
	if err == nil {
		_, err = file.Write(text)
	}
	if err == nil {
		err = file.Chmod(0o644)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	file.Close()
	return file.Name()
}

// shell returns any command, to be run as the caller.
func (c *caller) shell(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	c.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = c.dir
	cmd.WaitDelay = time.Second
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + c.dir, "TERM=dumb", "FOO=bar"}
	if c.uid != os.Geteuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(c.uid), Gid: uint32(c.gid)}}
	}
	return cmd
}

// result is how a command ended.
type result struct {
	out, err string
	code     int
	signal   syscall.Signal
}

func (c *caller) do(cmd *exec.Cmd) result {
	c.t.Helper()
	var out, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &out
	}
	cmd.Stderr = &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("%v: %v: %s", cmd.Args, err, stderr.String())
	}
	r := result{out: out.String(), err: stderr.String(), code: cmd.ProcessState.ExitCode()}
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		r.signal = ws.Signal()
	}
	return r
}

// run runs sp with args and returns how it ended.
func (c *caller) run(sp spec, args ...string) result {
	c.t.Helper()
	return c.do(c.command(sp, args...))
}

// want checks a result's output and that nothing went wrong.
func (c *caller) want(r result, out string) {
	c.t.Helper()
	if r.out != out || r.err != "" || r.code != 0 {
		c.t.Errorf("got %+v, want output %q", r, out)
	}
}

// line reads from r until it has seen text, or fails.
func (c *caller) line(r io.Reader, text string) string {
	c.t.Helper()
	seen := make(chan string, 1)
	var mu sync.Mutex
	var all []byte
	go func() {
		buf := make([]byte, 1)
		for !bytes.Contains(all, []byte(text)) {
			if n, err := r.Read(buf); err != nil || n == 0 {
				break
			}
			mu.Lock()
			all = append(all, buf[0])
			mu.Unlock()
		}
		seen <- string(all)
	}()
	select {
	case all := <-seen:
		if !strings.Contains(all, text) {
			c.t.Fatalf("got %q, want %q in it", all, text)
		}
		return all
	case <-time.After(20 * time.Second):
		mu.Lock()
		defer mu.Unlock()
		c.t.Fatalf("no %q within 20 seconds, but %q", text, all)
	}
	return ""
}
