package fs_test

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"plash/internal/usertest"
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

// TestAsUser runs the other tests of this package as an ordinary user.
func TestAsUser(t *testing.T) { usertest.Rerun(t, "-test.skip=RandomLikeTheKernel") }
