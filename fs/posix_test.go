package fs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"
)

// TestPosix runs go-fuse's conformance suite on a writable mount with three
// layers.
func TestPosix(t *testing.T) {
	for name, f := range posixtest.All {
		t.Run(name, func(t *testing.T) {
			if name == "FcntlFlockLocksFile" {
				t.Skip("wants a process's second fcntl lock on its own file refused; no kernel file system does that")
			}
			s := newStack(t, 2).mount()
			dir := s.path("test")
			mkdirs(t, dir)
			f(t, dir)
		})
	}
}

// TestAsUser runs all other tests of this package as an ordinary user, in a
// user namespace as the launcher makes it.
func TestAsUser(t *testing.T) {
	if os.Getenv("PLASH_FS_TEST_USER") != "" {
		t.Skip("this is the user already")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	const user = 54321
	dir, err := os.MkdirTemp("", "plashfs")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	// The go tool keeps the test binary where only its user may go.
	self := filepath.Join(dir, "fs.test")
	if out, err := exec.Command("cp", os.Args[0], self).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	for _, path := range []string{dir, self} {
		if err := os.Chown(path, user, user); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		ids  []syscall.SysProcIDMap
	}{
		{"subordinate ids", []syscall.SysProcIDMap{{ContainerID: 0, HostID: user, Size: 1}, {ContainerID: 1, HostID: 1 << 20, Size: 65536}}},
		{"one id", []syscall.SysProcIDMap{{ContainerID: 0, HostID: user, Size: 1}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := []string{"-test.v=" + verbose(), "-test.timeout=300s"}
			cmd := exec.Command(self, args...)
			cmd.Env = append(os.Environ(), "PLASH_FS_TEST_USER="+c.name, "TMPDIR="+dir)
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
				UidMappings: c.ids, GidMappings: c.ids,
				GidMappingsEnableSetgroups: true,
				Pdeathsig:                  syscall.SIGKILL,
				Credential:                 &syscall.Credential{Uid: 0, Gid: 0},
			}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			} else if testing.Verbose() {
				t.Logf("%s", out)
			}
		})
	}
}

func verbose() string {
	if testing.Verbose() {
		return "true"
	}
	return "false"
}
