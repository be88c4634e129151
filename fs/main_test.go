package fs_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"plash/fs"
	"plash/internal/usertest"
	"plash/union"
)

// The server of a test's mount is a process of its own, as in real life: this
// binary again, told by its environment what to serve.
const serveEnv = "PLASH_FS_TEST_SERVE"

type serveConfig struct {
	union.Config
	Mountpoint string
	Serve      fs.Options
	NoResource bool          // give CAP_SYS_RESOURCE up
	NoMknod    syscall.Errno // how mknod(2) refuses character devices, or 0
	Watched    bool          // let the test watch system calls, see stack.onCall
}

func TestMain(m *testing.M) {
	if c := os.Getenv(serveEnv); c != "" {
		if err := serve(c); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if c := os.Getenv(workerEnv); c != "" {
		if err := work(c); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Geteuid() == 0 && !usertest.Active() && os.Getenv(indexEnv) == "" {
		usertest.OwnMounts()
	}
	os.Exit(m.Run())
}

// indexEnv says that the lower layers of all tests are to have indexes.
const indexEnv = "PLASH_FS_TEST_INDEX"

// TestIndexed runs the tests of what is merged once more with indexes: nothing
// may depend on them.
func TestIndexed(t *testing.T) {
	if os.Getenv(indexEnv) != "" {
		t.Skip("these are the tests with indexes")
	}
	cmd := exec.Command(os.Args[0], "-test.run=LikeTheKernel|BetterThan|InodeNumbers|NoDevices|Redirect|Metacopy|CopyUpAtOpen|ManyNames|MknodRefused", "-test.skip=Random", "-test.timeout=15m")
	cmd.Env = append(os.Environ(), indexEnv+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func serve(text string) error {
	var c serveConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	if c.NoMknod != 0 {
		if err := refuseMknod(c.NoMknod); err != nil {
			return err
		}
	}
	if c.Watched {
		fd, err := letWatch()
		if err != nil {
			return err
		}
		fmt.Println("listener", fd)
	}
	u, err := union.New(c.Config)
	if err != nil {
		return err
	}
	defer u.Close()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var flags uintptr
	if c.Upper == "" {
		flags = unix.MS_RDONLY
	}
	if err := fs.Mount(fd, "plash", c.Mountpoint, flags); err != nil {
		return err
	}
	if c.NoResource {
		dropResource()
	}
	fmt.Println("mounted")
	debug.SetGCPercent(fs.GCPercent)
	err = fs.Serve(fd, u, c.Serve)
	if lost := (*fs.LostWrite)(nil); errors.As(err, &lost) {
		return nil // the test's program has heard of it
	}
	return err
}

// dropResource gives up what lifts quotas, on all threads.
func dropResource() {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		panic(err)
	}
	for i := range data {
		data[i].Inheritable = 0
	}
	data[0].Effective &^= 1 << unix.CAP_SYS_RESOURCE
	data[0].Permitted &^= 1 << unix.CAP_SYS_RESOURCE
	syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&data[0])), 0)
}

// A stack is a set of layers and where they are mounted.
type stack struct {
	t      *testing.T
	base   string
	lowers []string // topmost first
	upper  string   // "" if read-only
	mnt    string
	change func(c *serveConfig) // what is not as usual, or nil
	prefix string               // of overlayfs's attributes in the layers
	starts []string             // the command that executes the server, or nil
	// indexed: the lower layers get indexes whenever they are mounted.
	indexed bool
	// onCall is called before each of the server's watchedCalls; it kills the
	// server and returns false if this one is not to be made. Or nil.
	onCall func(c *watchedCall) bool
	server *exec.Cmd
}

// newStack makes the directories of a stack with n lowers, not mounted yet.
func newStack(t *testing.T, n int) *stack {
	t.Helper()
	if _, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		t.Skip("FUSE cannot be used here: ", err)
	}
	base := t.TempDir()
	s := &stack{t: t, base: base, mnt: filepath.Join(base, "mnt"), upper: filepath.Join(base, "upper"), prefix: "user.overlay.", indexed: os.Getenv(indexEnv) != ""}
	mkdirs(t, s.mnt, s.upper, filepath.Join(base, "work"))
	for i := range n {
		dir := filepath.Join(base, fmt.Sprint("lower", i))
		mkdirs(t, dir)
		s.lowers = append(s.lowers, dir)
	}
	return s
}

// letUsersIn lets other users pass through the stack's own directories.
func (s *stack) letUsersIn() {
	s.t.Helper()
	for _, dir := range []string{s.base, filepath.Dir(s.base)} {
		if err := os.Chmod(dir, 0o711); err != nil {
			s.t.Fatal(err)
		}
	}
}

func mkdirs(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// mount mounts the stack until the test ends or unmount is called.
func (s *stack) mount() *stack {
	s.t.Helper()
	s.start(s.config())
	return s
}

// config is what the stack's server is told.
func (s *stack) config() serveConfig {
	c := serveConfig{Mountpoint: s.mnt}
	for _, l := range s.lowers {
		ly := union.Layer{Path: l}
		if s.indexed {
			ly.Index = s.index(l)
		}
		c.Lowers = append(c.Lowers, ly)
	}
	if s.upper != "" {
		c.Upper, c.Work = s.upper, filepath.Join(s.base, "work")
	}
	if s.change != nil {
		s.change(&c)
	}
	return c
}

// index writes an index of the layer dir and returns its path from there.
func (s *stack) index(dir string) string {
	s.t.Helper()
	name := dir + ".index"
	os.Remove(name)
	err := union.WriteIndex(dir, name)
	if err == nil {
		err = union.TieIndex(name, dir)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return "../" + filepath.Base(name)
}

func (s *stack) start(c serveConfig) {
	s.t.Helper()
	if line := s.launch(c); line != "mounted\n" {
		s.t.Fatalf("server: %q", strings.TrimSpace(line))
	}
}

// launch starts a server and returns what it says.
func (s *stack) launch(c serveConfig) string {
	s.t.Helper()
	c.Watched = s.onCall != nil
	text, err := json.Marshal(c)
	if err != nil {
		s.t.Fatal(err)
	}
	words := append(slices.Clone(s.starts), os.Args[0])
	s.server = exec.Command(words[0], words[1:]...)
	s.server.Env = append(os.Environ(), serveEnv+"="+string(text))
	s.server.Stderr = os.Stderr
	s.server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := s.server.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.server.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.unmount)
	says := bufio.NewReader(out)
	line, _ := says.ReadString('\n')
	var listener int
	if n, _ := fmt.Sscanf(line, "listener %d", &listener); n == 0 {
		return line
	}
	if err := watch(s.server.Process.Pid, listener, s.onCall); err != nil {
		s.t.Skipf("system calls cannot be watched here: %v", err)
	}
	line, _ = says.ReadString('\n')
	return line
}

// unmount ends the mount and waits for the server's end.
func (s *stack) unmount() {
	if s.server == nil {
		return
	}
	err := unix.Unmount(s.mnt, 0)
	if err != nil {
		s.t.Errorf("unmount %s: %v", s.mnt, err)
		unix.Unmount(s.mnt, unix.MNT_DETACH)
	}
	done := make(chan error, 1)
	go func() { done <- s.server.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			s.t.Errorf("server: %v", err)
		}
	case <-time.After(10 * time.Second):
		s.server.Process.Kill()
		s.t.Error("the server did not end with its mount")
	}
	s.server = nil
}

func (s *stack) remount() {
	s.t.Helper()
	s.unmount()
	s.mount()
}

// path returns a path in the mount.
func (s *stack) path(name string) string { return filepath.Join(s.mnt, name) }
