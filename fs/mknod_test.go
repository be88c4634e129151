package fs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"plash/union"
)

// Where devices cannot be made: what a seccomp filter, a security module or a
// file system answers to mknod(2) instead.

// mknodCase is a stack in which every kind of change leaves whiteouts.
func mknodCase(t *testing.T, errno syscall.Errno) (*stack, []error) {
	s := newStack(t, 2)
	fill(t, s.lowers[1], tree("a: 1", "b: 2", "dir/x: 3", "dir/y: 4", "dir/sub/z: 5", "gone/deep/w", "again/old", "moved/m: 6", "both: low", "empty: ", "keep/k: 7"))
	fill(t, s.lowers[0], tree("dir/sub/top: 8", "both: up", "again/older"))
	s.change = func(c *serveConfig) { c.NoMknod = errno }
	s.mount()
	return s, []error{
		os.Remove(s.path("a")), os.Remove(s.path("dir/x")), os.Remove(s.path("both")), os.Remove(s.path("empty")),
		os.Remove(s.path("dir/sub/z")), os.RemoveAll(s.path("gone")),
		os.RemoveAll(s.path("again")), os.Mkdir(s.path("again"), 0o750),
		os.Rename(s.path("b"), s.path("dir/b")), os.Rename(s.path("dir/y"), s.path("a")),
		os.Rename(s.path("moved"), s.path("dir/moved")), os.Rename(s.path("dir/moved"), s.path("gone")),
		os.WriteFile(s.path("dir/x"), []byte("new"), 0o644), os.Remove(s.path("dir/x")),
	}
}

// TestMknodRefused: the tree is the same whatever refuses devices and however,
// for us, for the kernel when the upper has become a lower layer, and when the
// layer has been sealed where devices can be made, as an upper, too.
func TestMknodRefused(t *testing.T) {
	s, errs := mknodCase(t, 0)
	want := dump(t, s.mnt)
	if got, w := names(t, s.mnt), "a again dir dir/b dir/sub dir/sub/top gone gone/m keep keep/k"; got != w || fmt.Sprint(errs) != fmt.Sprint(make([]error, len(errs))) {
		t.Fatalf("with devices: %s, want %s; %v", got, w, errs)
	}
	for _, errno := range []syscall.Errno{unix.EPERM, unix.EACCES, unix.ENOSYS, unix.EOPNOTSUPP, unix.EINVAL} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			s, errs := mknodCase(t, errno)
			for i, err := range errs {
				if err != nil {
					t.Errorf("step %d: %v", i, err)
				}
			}
			diff(t, "the tree", want, dump(t, s.mnt))
			s.remount()
			diff(t, "the tree after a remount", want, dump(t, s.mnt))
			s.unmount()
			if formOf(s.upper, "both") != unix.S_IFREG {
				t.Error("the whiteout of both is no file")
			}
			asLower(t, s, want)
			sealed(t, s, want)
		})
	}
}

// asLower has the kernel read the upper as a layer below another one.
func asLower(t *testing.T, s *stack, want []string) {
	if !kernelAtLeast(6, 8) {
		t.Log("this kernel does not know whiteouts that are files: its view of them is left out")
		return
	}
	k := newStack(t, 0)
	k.lowers = append([]string{s.upper}, s.lowers...)
	k.kernelMount(k.upper, filepath.Join(k.base, "work"), k.mnt)
	diff(t, "the kernel's view of it as a lower layer", want[1:], dump(t, k.mnt)[1:])
	unix.Unmount(k.mnt, 0)
}

// sealed converts the whiteouts: all are devices then, and no mark is left.
func sealed(t *testing.T, s *stack, want []string) {
	t.Helper()
	if err := union.Seal(s.upper, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	filepath.WalkDir(s.upper, func(path string, _ os.DirEntry, err error) error {
		marks := xattrs(path)
		if err != nil || strings.Contains(marks, `overlay.opaque="x"`) || strings.Contains(marks, "overlay.whiteout") || strings.Contains(marks, "plash.files") {
			t.Errorf("%s: %v %s", path, err, marks)
		}
		return nil
	})
	if formOf(s.upper, "both") != unix.S_IFCHR {
		t.Error("the whiteout of both is no device")
	}
	s.change = nil
	s.mount()
	diff(t, "the sealed tree", want, dump(t, s.mnt))
	s.unmount()
	s.kernelMount(s.upper, filepath.Join(s.base, "work"), s.mnt)
	diff(t, "the kernel's view of the sealed upper", want, dump(t, s.mnt))
	unix.Unmount(s.mnt, 0)
}

func formOf(dir, name string) uint32 {
	var st unix.Stat_t
	unix.Lstat(filepath.Join(dir, name), &st)
	return st.Mode & unix.S_IFMT
}

// TestMknodFails: what is no refusal is the program's error, and changes
// nothing.
func TestMknodFails(t *testing.T) {
	for _, errno := range []syscall.Errno{unix.ENOSPC, unix.EDQUOT, unix.EIO, unix.ENOMEM} {
		s := newStack(t, 1)
		fill(t, s.lowers[0], tree("a: 1", "dir/b: 2"))
		s.change = func(c *serveConfig) { c.NoMknod = errno }
		s.mount()
		want := dump(t, s.mnt)
		for _, name := range []string{"a", "dir/b"} {
			if err := unix.Unlink(s.path(name)); err != errno {
				t.Errorf("%s: unlink %s: %v", unix.ErrnoName(errno), name, err)
			}
		}
		s.remount()
		diff(t, "the tree after a failure", want, dump(t, s.mnt))
	}
}
