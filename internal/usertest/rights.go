package usertest

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// WithRights runs f with an ordinary user's rights to files; if the tests run as
// one, as it is. The user gets all that is in dirs, and may enter what they
// are in.
func WithRights(t *testing.T, dirs []string, f func()) {
	t.Helper()
	if os.Geteuid() != 0 || Active() {
		f()
		return
	}
	for _, dir := range dirs {
		if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
			t.Fatal(err)
		}
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, user, user)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread ends with us
		unix.SetfsgidRetGid(user)
		unix.SetfsuidRetUid(user)
		f()
	}()
	<-done
}
