package fs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Link counts and inode numbers.

var linkCases = map[string]func(r *run){
	"links of files": func(r *run) {
		all := func() {
			for _, name := range []string{"file", "top", "made", "new", "new2", "dir/new3", "over", "gone", "link", "link2"} {
				var st unix.Stat_t
				if unix.Lstat(r.path(name), &st) == nil {
					r.note("links of "+name, st.Nlink)
				}
			}
		}
		all()
		for _, err := range []error{
			os.Link(r.path("top"), r.path("new")), os.Link(r.path("file"), r.path("new2")), os.Link(r.path("new2"), r.path("dir/new3")),
			os.Link(r.path("file"), r.path("gone")), unix.Linkat(unix.AT_FDCWD, r.path("link"), unix.AT_FDCWD, r.path("link2"), 0),
		} {
			r.do("link", err)
			all()
		}
		for _, name := range []string{"file", "top", "dir/new3"} {
			r.do("unlink", os.Remove(r.path(name)))
			all()
		}
		r.do("rename over a link", os.Rename(r.path("over"), r.path("gone")))
		all()
	},
	"links of directories": func(r *run) {
		all := func() {
			for _, name := range []string{".", "dir", "dir/sub", "dir/sub/deep", "opaque", "empty", "emptylow", "d2", "made", "made/a", "new"} {
				var st unix.Stat_t
				if unix.Lstat(r.path(name), &st) == nil {
					r.note("links of "+name, st.Nlink)
				}
			}
		}
		all()
		for _, name := range []string{"made", "made/a", "made/b", "empty/x", "dir/x", "opaque/x", "emptylow/x"} {
			r.do("mkdir", os.Mkdir(r.path(name), 0o755))
			all()
		}
		r.do("rmdir", os.Remove(r.path("made/b")))
		r.do("rename", os.Rename(r.path("made/a"), r.path("new")))
		all()
		r.do("chmod", os.Chmod(r.path("dir/sub/deep"), 0o700))
		all()
		r.do("rm", os.RemoveAll(r.path("dir")))
		r.do("mkdir", os.Mkdir(r.path("dir"), 0o755))
		all()
	},
}

func TestLinkCounts(t *testing.T) {
	for name, ops := range linkCases {
		t.Run(name, func(t *testing.T) { compare(t, base, ops) })
	}
}

// forget lets the kernel forget what is not in use, and waits until that is done:
// the server then has few nodes, which its descriptors show.
func (s *stack) forget() {
	s.t.Helper()
	for range 5 {
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
			s.t.Skip(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestLinksAreRemembered: what was unlinked is not counted, also when the file has
// been forgotten meanwhile.
func TestLinksAreRemembered(t *testing.T) {
	realRootOnly(t)
	s := newStack(t, 1)
	fill(t, s.lowers[0], tree("a: text", "b = a", "dir/", "dir/c = a", "x: text", "y = x", "u: text", "v = u"))
	s.mount()
	check := func(when string, want map[string]uint64) {
		t.Helper()
		for name, n := range want {
			var st unix.Stat_t
			if err := unix.Lstat(s.path(name), &st); err != nil || uint64(st.Nlink) != n {
				t.Errorf("%s: %s has %d links, not %d, %v", when, name, st.Nlink, n, err)
			}
		}
	}
	check("at first", map[string]uint64{"a": 3, "b": 3, "dir/c": 3, "x": 2})
	for _, err := range []error{os.Remove(s.path("b")), os.Rename(s.path("u"), s.path("w")), os.Chmod(s.path("x"), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]uint64{"a": 2, "dir/c": 2, "x": 2, "y": 2, "w": 2, "v": 2}
	check("at once", want)
	s.forget()
	check("when all is forgotten", want)
	if err := os.Remove(s.path("a")); err != nil {
		t.Fatal(err)
	}
	s.forget()
	check("then", map[string]uint64{"dir/c": 1})
	if err := os.WriteFile(s.path("dir/c"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	check("copied up", map[string]uint64{"dir/c": 1})
	s.forget()
	check("and forgotten", map[string]uint64{"dir/c": 1})
	if err := os.Remove(s.path("dir/c")); err != nil {
		t.Fatal(err)
	}
}

// TestManyFileSystems: over layers on different file systems inode numbers are
// unique, are those of the listing, and stay over a copy-up, a rename and a
// remount.
func TestManyFileSystems(t *testing.T) {
	s := newStack(t, 4)
	for i, dir := range append([]string{s.base + "/up"}, s.lowers[1:]...) {
		mkdirs(t, dir)
		if err := unix.Mount("layer", dir, "tmpfs", 0, ""); err != nil {
			t.Skipf("no tmpfs here: %v", err)
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
		if i == 0 {
			s.upper = filepath.Join(dir, "upper")
			mkdirs(t, s.upper, filepath.Join(dir, "work"))
			if err := unix.Setxattr(s.upper, "user.x", nil, 0); err != nil {
				t.Skipf("a tmpfs without user attributes: %v", err)
			}
			s.change = func(c *serveConfig) { c.Work = filepath.Join(dir, "work") }
		}
	}
	for i, lower := range s.lowers {
		for k := range 30 {
			fill(t, lower, tree(fmt.Sprintf("f%d-%d", i, k), fmt.Sprintf("dir/f%d-%d", i, k), fmt.Sprintf("dir%d/s%d/", i, k), fmt.Sprintf("l%d-%d -> x", i, k)))
		}
	}
	s.mount()
	numbers := func(when string) map[string]uint64 {
		t.Helper()
		all, seen := map[string]uint64{}, map[uint64]string{}
		err := filepath.WalkDir(s.mnt, func(path string, d os.DirEntry, err error) error {
			var st unix.Stat_t
			if err == nil {
				err = unix.Lstat(path, &st)
			}
			if err != nil {
				return err
			}
			if other, ok := seen[st.Ino]; ok {
				t.Errorf("%s: %s and %s have the same number", when, path, other)
			}
			seen[st.Ino] = path
			rel, _ := filepath.Rel(s.mnt, path)
			all[rel] = st.Ino
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{".", "dir", "dir2"} {
			for name, ino := range listedNumbers(t, s.path(dir)) {
				if path := filepath.Join(dir, name); all[path] != ino {
					t.Errorf("%s: %s is listed with number %d, has %d", when, path, ino, all[path])
				}
			}
		}
		return all
	}
	was := numbers("at first")
	for i := range s.lowers {
		for k := range 10 {
			for _, err := range []error{
				os.Chmod(s.path(fmt.Sprintf("f%d-%d", i, k)), 0o600), os.Chmod(s.path(fmt.Sprintf("dir%d/s%d", i, k)), 0o700),
				os.WriteFile(s.path(fmt.Sprintf("dir/f%d-%d", i, k)), []byte("new"), 0o644), os.WriteFile(s.path(fmt.Sprintf("new%d-%d", i, k)), nil, 0o644),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := os.Rename(s.path("f2-1"), s.path("dir3/moved")); err != nil {
		t.Fatal(err)
	}
	was["dir3/moved"] = was["f2-1"]
	delete(was, "f2-1")
	same := func(when string, is map[string]uint64) {
		t.Helper()
		for name, ino := range was {
			if is[name] != ino {
				t.Errorf("%s: %s has number %d, had %d", when, name, is[name], ino)
			}
		}
	}
	same("after the copy-up", numbers("after the copy-up"))
	s.remount()
	same("after a remount", numbers("after a remount"))
}

// listedNumbers are the inode numbers of a listing of path.
func listedNumbers(t *testing.T, path string) map[string]uint64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string]uint64{}
	buf := make([]byte, 8192)
	for {
		n, err := unix.Getdents(int(f.Fd()), buf)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			delete(all, "..")
			return all
		}
		for _, e := range entries(buf[:n]) {
			all[e.name] = e.ino
		}
	}
}

// TestWhiteoutsShareAnInode: as the kernel's do; and a directory that is opaque
// holds none.
func TestWhiteoutsShareAnInode(t *testing.T) {
	s := newStack(t, 1)
	fill(t, s.lowers[0], tree("a", "b", "c", "dir/x", "dir/y", "dir/z"))
	s.mount()
	for _, err := range []error{
		os.Remove(s.path("a")), os.Remove(s.path("b")), os.Rename(s.path("c"), s.path("d")), os.RemoveAll(s.path("dir")),
		os.Mkdir(s.path("dir"), 0o755), os.WriteFile(s.path("dir/x"), nil, 0o644), os.WriteFile(s.path("dir/y"), nil, 0o644),
		os.Remove(s.path("dir/x")), os.Rename(s.path("dir/y"), s.path("dir/w")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var a, b unix.Stat_t
	unix.Lstat(filepath.Join(s.upper, "a"), &a)
	unix.Lstat(filepath.Join(s.upper, "b"), &b)
	if a.Mode&unix.S_IFMT != unix.S_IFCHR || a.Rdev != 0 || a.Ino != b.Ino || a.Nlink < 2 {
		t.Errorf("a: %o, number %d, %d links; b: number %d", a.Mode, a.Ino, a.Nlink, b.Ino)
	}
	if got := names(t, filepath.Join(s.upper, "dir")); got != "w" {
		t.Errorf("the opaque directory holds %s", got)
	}
}

// TestLowerAccessTimes: what is read in a lower layer is not marked there as
// read, as far as that can be avoided: for a symlink it cannot.
func TestLowerAccessTimes(t *testing.T) {
	s := newStack(t, 2)
	fill(t, s.lowers[1], tree("dir/sub/file: text", "dir/other: text", "big: text"))
	fill(t, s.lowers[0], tree("dir/top"))
	for _, dir := range s.lowers {
		setTimes(t, dir)
	}
	atimes := func() (all []string) {
		for _, lower := range s.lowers {
			for _, name := range []string{".", "dir", "dir/sub", "dir/sub/file", "dir/top", "dir/other"} {
				var st unix.Stat_t
				if unix.Lstat(filepath.Join(lower, name), &st) == nil {
					all = append(all, fmt.Sprint(name, " ", st.Atim))
				}
			}
		}
		return all
	}
	was := atimes()
	// Times in the past, before those of the last change, would be moved.
	probe := filepath.Join(t.TempDir(), "probe")
	if err := os.WriteFile(probe, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	setTimes(t, probe)
	os.ReadFile(probe)
	var st unix.Stat_t
	if unix.Lstat(probe, &st); time.Unix(st.Atim.Unix()).Equal(old) {
		t.Skip("this file system keeps no access times")
	}
	for _, foreign := range []bool{false, true} {
		s.change = func(c *serveConfig) {
			for i := range c.Lowers {
				c.Lowers[i].Foreign = foreign
			}
		}
		s.mount()
		dump(t, s.mnt)
		if err := os.WriteFile(s.path("dir/other"), []byte("changed"), 0o644); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(s.path("dir/sub")); err != nil {
			t.Error(err)
		}
		s.unmount()
		diff(t, "the times of access", was, atimes())
	}
}
