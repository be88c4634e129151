// Package usertest runs a package's tests once more as an ordinary user who is
// root of a user namespace, as plash's launcher makes it, or where others'
// mounts and signals do not disturb them.
package usertest

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	env  = "PLASH_TEST_USER"
	user = 54321 // an id that no account has
)

// Active reports whether these tests run as the user.
func Active() bool { return os.Getenv(env) != "" }

// Rerun runs all tests of the calling package, or those that flags of the test
// binary select, as a user with subordinate ids and as one without; those that
// call it are skipped there.
func Rerun(t *testing.T, flags ...string) {
	if Active() {
		t.Skip("this is the user already")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	dir, err := os.MkdirTemp("", "plashtest")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil { // tests have users of their own
		t.Fatal(err)
	}
	self := copySelf(t, dir)
	own := syscall.SysProcIDMap{ContainerID: 0, HostID: user, Size: 1}
	for name, ids := range map[string][]syscall.SysProcIDMap{
		"subordinate ids": {own, {ContainerID: 1, HostID: 1 << 20, Size: 65536}},
		"one id":          {own},
	} {
		t.Run(name, func(t *testing.T) {
			verbose := "-test.v=false"
			if testing.Verbose() {
				verbose = "-test.v=true"
			}
			cmd := exec.Command(self, append([]string{verbose, "-test.timeout=15m"}, flags...)...)
			cmd.Env = append(os.Environ(), env+"="+name, "TMPDIR="+dir)
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
				UidMappings: ids, GidMappings: ids,
				GidMappingsEnableSetgroups: true,
				Credential:                 &syscall.Credential{Uid: 0, Gid: 0},
				Pdeathsig:                  syscall.SIGKILL,
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

// copySelf puts the test binary where the user may run it: the go tool keeps
// it to itself.
func copySelf(t *testing.T, dir string) string {
	self := filepath.Join(dir, "test")
	if out, err := exec.Command("cp", os.Args[0], self).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	for _, path := range []string{dir, self} {
		if err := os.Chown(path, user, user); err != nil {
			t.Fatal(err)
		}
	}
	return self
}
