package fs_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"plash/internal/usertest"
)

// What lies on disk: what others wrote is understood, and what we write is
// understood by the kernel and by the next mount.

func fill(t *testing.T, dir string, layers ...layer) {
	t.Helper()
	for _, l := range layers {
		l(t, dir)
	}
}

func setxattr(t *testing.T, path, name, value string) {
	t.Helper()
	if err := unix.Lsetxattr(path, name, []byte(value), 0); err != nil {
		t.Fatalf("%s: %s: %v", path, name, err)
	}
}

// names lists all paths below dir.
func names(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if rel, _ := filepath.Rel(dir, path); rel != "." {
			all = append(all, rel)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return strings.Join(all, " ")
}

func foreign(c *serveConfig) {
	for i := range c.Lowers {
		c.Lowers[i].Foreign = true
	}
}

func TestForeignWhiteouts(t *testing.T) {
	s := newStack(t, 3)
	s.change = foreign
	fill(t, s.lowers[2], tree("a", "b", "dir/x", "dir/y", "opq/old", "fopq/old", "was/sub/deep", "both/low", "keep"))
	fill(t, s.lowers[1], tree(".wh.a", "dir/.wh.x", "opq/.wh..wh..opq", "opq/new", "fopq/new", ".wh.was", "both/mid", ".wh.both", "dir/z"))
	fill(t, s.lowers[0], tree("dir/top", ".wh.none", "b/../c"))
	setxattr(t, filepath.Join(s.lowers[1], "fopq"), "user.fuseoverlayfs.opaque", "y")
	s.mount()
	want := "b both both/mid c dir dir/top dir/y dir/z fopq fopq/new keep opq opq/new"
	if got := names(t, s.mnt); got != want {
		t.Errorf("merged:\n%s\nwant\n%s", got, want)
	}
	for _, gone := range []string{"a", ".wh.a", "dir/x", "was", "both/low", "opq/.wh..wh..opq"} {
		if _, err := os.Lstat(s.path(gone)); !os.IsNotExist(err) {
			t.Errorf("%s: %v", gone, err)
		}
	}
	// What they hid stays hidden when something of that name comes and goes.
	for _, step := range []error{
		os.Mkdir(s.path("was"), 0o755), os.WriteFile(s.path("a"), nil, 0o644),
		os.Remove(s.path("a")), os.Remove(s.path("was")), os.RemoveAll(s.path("dir")),
	} {
		if step != nil {
			t.Error(step)
		}
	}
	s.remount()
	if got, want := names(t, s.mnt), "b both both/mid c fopq fopq/new keep opq opq/new"; got != want {
		t.Errorf("after a remount:\n%s\nwant\n%s", got, want)
	}
}

// TestForeignUpper: an upper directory of fuse-overlayfs without mknod becomes
// one of ours, which the kernel understands; names that begin with ".wh." are
// then the user's.
func TestForeignUpper(t *testing.T) {
	s := newStack(t, 1)
	fill(t, s.lowers[0], tree("a", "b", "dir/x", "opq/old", "sub/y", "was/low"))
	fill(t, s.upper, tree(".wh.a: ", "dir/.wh.x: ", "opq/.wh..wh..opq: ", "opq/new", ".wh.was: ", "was/up", ".wh.mine: text"))
	s.mount()
	want := ".wh.mine b dir opq opq/new sub sub/y was was/up"
	if got := names(t, s.mnt); got != want {
		t.Errorf("merged:\n%s\nwant\n%s", got, want)
	}
	if err := os.WriteFile(s.path("sub/.wh.y"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	want = ".wh.mine b dir opq opq/new sub sub/.wh.y sub/y was was/up"
	s.remount()
	if got := names(t, s.mnt); got != want {
		t.Errorf("after a remount:\n%s\nwant\n%s", got, want)
	}
	s.unmount()
	s.kernelMount(s.upper, filepath.Join(s.base, "work"), s.mnt)
	if got := names(t, s.mnt); got != want {
		t.Errorf("in the kernel:\n%s\nwant\n%s", got, want)
	}
	unix.Unmount(s.mnt, 0)
	// As a lower layer it is known as ours, too.
	top := newStack(t, 0)
	top.lowers, top.change = []string{s.upper, s.lowers[0]}, foreign
	top.mount()
	if got := names(t, top.mnt); got != want {
		t.Errorf("as a lower layer:\n%s\nwant\n%s", got, want)
	}
}

func TestOwnersInAttributes(t *testing.T) {
	if os.Getenv("PLASH_TEST_USER") == "one id" {
		t.Skip("the owners have no numbers here")
	}
	s := newStack(t, 1)
	s.change = foreign
	fill(t, s.lowers[0], tree("f: text", "dir/g", "null: ", "link: /target"))
	setxattr(t, s.lowers[0], "user.containers.override_stat", "0:0:755")
	low := func(name string) string { return filepath.Join(s.lowers[0], name) }
	setxattr(t, low("f"), "user.containers.override_stat", "12:34:4711")
	setxattr(t, low("dir"), "user.containers.override_stat", "1:2:2750:dir")
	setxattr(t, low("null"), "user.containers.override_stat", "0:6:666:char1:3")
	setxattr(t, low("link"), "user.containers.override_stat", "5:6:777:symlink")
	s.mount()
	r := &run{t: t, mnt: s.mnt}
	for _, name := range []string{"f", "dir", "null", "link", "dir/g"} {
		var st unix.Stat_t
		if err := unix.Lstat(s.path(name), &st); err != nil {
			t.Error(err)
		}
		r.note(name, fmt.Sprintf("%o %d:%d %d:%d", st.Mode, st.Uid, st.Gid, unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	}
	target, err := os.Readlink(s.path("link"))
	r.note("target", fmt.Sprint(target, err))
	diff(t, "what the attributes say", []string{
		"f = 104711 12:34 0:0", "dir = 42750 1:2 0:0", "null = 20666 0:6 1:3", "link = 120777 5:6 0:0", "dir/g = 100644 0:0 0:0",
		"target = /target<nil>",
	}, r.log)
	if names := xattrs(s.path("f")); names != "" {
		t.Errorf("it is shown: %s", names)
	}
}

// TestXattrPermissions: what is written as attributes shows again.
func TestXattrPermissions(t *testing.T) {
	for mode, name := range map[int]string{1: "security.fuseoverlayfs.override_stat", 2: "user.containers.override_stat"} {
		if mode == 1 && usertest.Active() {
			continue // security attributes are real root's
		}
		s := newStack(t, 1)
		s.change = func(c *serveConfig) { c.XattrPermissions = mode }
		fill(t, s.lowers[0], tree("low: text", "dir/sub/"))
		s.mount()
		steps := []error{
			os.Chmod(s.path("low"), 0o640|os.ModeSetuid), os.WriteFile(s.path("new"), []byte("x"), 0o400), os.Mkdir(s.path("dir/made"), 0o510),
		}
		if os.Getenv("PLASH_TEST_USER") != "one id" {
			steps = append(steps, os.Chown(s.path("new"), 7, 8))
		}
		for _, err := range steps {
			if err != nil {
				t.Errorf("mode %d: %v", mode, err)
			}
		}
		want := dump(t, s.mnt)
		var st unix.Stat_t
		unix.Stat(filepath.Join(s.upper, "low"), &st)
		if st.Mode&0o7777 == 0o4640 {
			t.Errorf("mode %d: the file itself has the mode", mode)
		}
		if v := make([]byte, 64); true {
			n, err := unix.Getxattr(filepath.Join(s.upper, "low"), name, v)
			if err != nil || string(v[:n]) != "0:0:4640" {
				t.Errorf("mode %d: %q %v", mode, v[:max(n, 0)], err)
			}
		}
		reserved(t, s.path("new"), name)
		gone, err := os.OpenFile(s.path("gone"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(s.path("gone"))
		reserved(t, fdName(int(gone.Fd())), name)
		gone.Close()
		s.remount()
		diff(t, "the tree after a remount", want, dump(t, s.mnt))
		if f, err := os.OpenFile(s.path("low"), os.O_WRONLY, 0); err != nil {
			t.Error(err)
		} else {
			f.Close()
		}
	}
}

// reserved checks that the attribute name of path is not a user's, which has no other.
func reserved(t *testing.T, path, name string) {
	t.Helper()
	if err := unix.Setxattr(path, name, []byte("0:0:4755"), 0); err != unix.EPERM {
		t.Errorf("%s set: %v", name, err)
	}
	if err := unix.Removexattr(path, name); err != unix.EPERM {
		t.Errorf("%s removed: %v", name, err)
	}
	if _, err := unix.Getxattr(path, name, nil); err != unix.ENODATA {
		t.Errorf("%s read: %v", name, err)
	}
	if n, err := unix.Listxattr(path, nil); n != 0 || err != nil {
		t.Errorf("with %s attributes are listed, %d bytes, %v", name, n, err)
	}
}

// TestOwnersOfNew: where owners are kept in attributes new objects have the same as
// elsewhere, there are no ACLs, and nothing in the upper is run as another or may be
// used by others.
func TestOwnersOfNew(t *testing.T) {
	if os.Geteuid() != 0 || usertest.Active() {
		t.Skip("it takes several users")
	}
	make := func(dir string) {
		r := &run{t: t, mnt: dir}
		old := unix.Umask(0)
		defer unix.Umask(old)
		for _, err := range []error{os.Mkdir(r.path("d"), 0o700), os.Chown(r.path("d"), -1, 2000), unix.Chmod(r.path("d"), 0o3777)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		d, err := unix.Open(r.path("d"), unix.O_PATH, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(d)
		r.as(1001, func() {
			for name, err := range map[string]error{
				"file": unix.Mknodat(d, "file", unix.S_IFREG|0o4751, 0), "dir": unix.Mkdirat(d, "dir", 0o777),
				"link": unix.Symlinkat("target", d, "link"), "fifo": unix.Mknodat(d, "fifo", unix.S_IFIFO|0o622, 0),
			} {
				if err != nil {
					t.Error(name, err)
				}
			}
			fd, err := unix.Openat(d, ".", unix.O_TMPFILE|unix.O_RDWR, 0o4755)
			if err == nil {
				err = unix.Linkat(unix.AT_FDCWD, fdName(fd), d, "tmp", unix.AT_SYMLINK_FOLLOW)
				unix.Close(fd)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	want := t.TempDir()
	make(want)
	s := newStack(t, 1)
	s.change = func(c *serveConfig) { c.XattrPermissions = 2 }
	s.mount()
	make(s.mnt)
	diff(t, "what was made", dump(t, want), dump(t, s.mnt))
	if err := unix.Setxattr(s.path("d"), "system.posix_acl_default", aclOf(5, 0), 0); err != unix.EOPNOTSUPP {
		t.Errorf("an ACL: %v", err)
	}
	for _, name := range []string{"d", "d/file", "d/tmp", "d/dir"} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(s.upper, name), &st); err != nil || st.Mode&0o7077 != 0 {
			t.Errorf("%s in the upper: mode %o, %v", name, st.Mode, err)
		}
	}
}

// TestMadeWithoutChown: where owners are kept in attributes a server that may not
// chown(2) lets other users make and change all kinds of objects. Those that cannot have
// an attribute are its own then, but not where it counts whose they are.
func TestMadeWithoutChown(t *testing.T) {
	if os.Geteuid() != 0 || usertest.Active() {
		t.Skip("it takes several users")
	}
	for dir, mode := range map[string]os.FileMode{"plain": 0o777, "group": 0o777 | os.ModeSetgid, "sticky": 0o777 | os.ModeSticky} {
		t.Run(dir, func(t *testing.T) {
			s := newStack(t, 1)
			s.change = func(c *serveConfig) { c.XattrPermissions = 2 }
			s.starts = []string{"setpriv", "--bounding-set=-chown", "--inh-caps=-chown"}
			fill(t, s.lowers[0], tree("low/file: text", "low/link -> file"))
			fill(t, s.upper, tree("d/"))
			unix.Mkfifo(filepath.Join(s.lowers[0], "low/fifo"), 0o644)
			for _, name := range []string{"low/file", "low/link", "low/fifo"} {
				if err := os.Lchown(filepath.Join(s.lowers[0], name), 1002, 1002); err != nil {
					t.Fatal(err)
				}
			}
			for _, path := range []string{filepath.Join(s.upper, "d"), filepath.Join(s.lowers[0], "low")} {
				if err := errors.Join(os.Chown(path, -1, 1002), os.Chmod(path, mode)); err != nil {
					t.Fatal(err)
				}
			}
			s.letUsersIn()
			s.mount()
			var failed error
			if dir == "sticky" {
				failed = unix.EPERM
			}
			(&run{t: t, mnt: s.mnt}).as(1002, func() {
				for what, x := range map[string]struct{ got, want error }{
					"file":   {os.WriteFile(s.path("d/file"), nil, 0o600), nil},
					"dir":    {os.Mkdir(s.path("d/dir"), 0o700), nil},
					"link":   {os.Symlink("target", s.path("d/link")), failed},
					"fifo":   {unix.Mkfifo(s.path("d/fifo"), 0o622), failed},
					"socket": {unix.Mknod(s.path("d/socket"), unix.S_IFSOCK|0o600, 0), failed},
					// These are copied up.
					"low file": {os.Rename(s.path("low/file"), s.path("low/file2")), nil},
					"low link": {os.Rename(s.path("low/link"), s.path("low/link2")), failed},
					"low fifo": {os.Chmod(s.path("low/fifo"), 0o622), failed},
				} {
					if !errors.Is(x.got, x.want) {
						t.Errorf("%s: %v, want %v", what, x.got, x.want)
					}
				}
			})
			owners := map[string]string{"d/file": "1002", "d/dir": "1002", "low/file2": "1002"}
			if failed == nil {
				maps.Copy(owners, map[string]string{"d/link": "0", "d/fifo": "0", "d/socket": "0", "low/link2": "0", "low/fifo": "0"})
			}
			for name, want := range owners {
				if got, _, _ := strings.Cut(owner(t, s.path(name)), ":"); got != want {
					t.Errorf("%s is %s, not %s", name, got, want)
				}
			}
		})
	}
}

// TestGroupOfMade: what the server's own user makes in a set-gid directory gets its group
// there, whether that has the bit itself or in an attribute, and over a whiteout.
func TestGroupOfMade(t *testing.T) {
	realRootOnly(t)
	for _, upper := range []bool{false, true} {
		s := newStack(t, 1)
		s.change = func(c *serveConfig) { c.XattrPermissions = 2 }
		fill(t, s.lowers[0], tree("d/file: x", "d/link -> a"))
		dirs := []string{s.lowers[0]}
		if upper {
			fill(t, s.upper, tree("d/"))
			dirs = append(dirs, s.upper)
		}
		for _, dir := range dirs {
			if err := errors.Join(os.Chown(filepath.Join(dir, "d"), 0, 1002), os.Chmod(filepath.Join(dir, "d"), 0o777|os.ModeSetgid)); err != nil {
				t.Fatal(err)
			}
		}
		s.mount()
		err := errors.Join(os.Remove(s.path("d/link")), os.Symlink("b", s.path("d/link")), os.Symlink("b", s.path("d/new")), os.WriteFile(s.path("d/file2"), nil, 0o644))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"d/link", "d/new", "d/file2"} {
			if got := owner(t, s.path(name)); got != "0:1002" {
				t.Errorf("%s is %s", name, got)
			}
		}
	}
}

// TestACLBelowOwners: where owners are kept in attributes there are no ACLs, and what a
// lower object's denies stays denied: before and after its copy-up, by whatever that
// comes, and in later mounts. So does what an upper object's denies.
func TestACLBelowOwners(t *testing.T) {
	if os.Geteuid() != 0 || usertest.Active() {
		t.Skip("it takes several users")
	}
	s := newStack(t, 1)
	s.change = func(c *serveConfig) { c.XattrPermissions = 2 }
	none := ^uint32(0)
	const user, group, access, byDefault = 2, 8, "system.posix_acl_access", "system.posix_acl_default"
	// with is an ACL with an entry for 1001 or another one.
	with := func(tag, perm uint16, id uint32, groupObj, mask, other uint16) string {
		named, own := aclEntry{tag, perm, id}, aclEntry{4, groupObj, none}
		first, second := named, own
		if tag == group {
			first, second = own, named
		}
		return string(acl(aclEntry{1, 6, none}, first, second, aclEntry{16, mask, none}, aclEntry{32, other, none}))
	}
	acls := map[string]string{
		"user": with(user, 0, 1001, 4, 4, 4), "group": with(group, 0, 1001, 4, 4, 4), "dir": with(user, 0, 1001, 5, 5, 5),
		"mask": with(user, 4, 5, 0, 4, 0), "chmod": with(user, 4, 5, 0, 4, 0), "write": with(user, 4, 5, 0, 4, 0), "fifo": with(user, 0, 1001, 4, 4, 4),
	}
	secret := []string{"user", "group", "dir/f", "mask", "chmod", "write", "fifo"}
	fill(t, s.lowers[0], tree("user: secret", "group: secret", "dir/f: secret", "mask: secret", "chmod: secret", "write: secret", "open: text"))
	fill(t, s.upper, tree("ours: secret"))
	low := func(name string) string { return filepath.Join(s.lowers[0], name) }
	if err := unix.Mkfifo(low("fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"mask", "chmod", "write"} {
		if err := os.Chown(low(name), 0, 1001); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range acls {
		setxattr(t, low(name), access, value)
	}
	setxattr(t, low("dir"), byDefault, acls["dir"])
	setxattr(t, filepath.Join(s.upper, "ours"), access, acls["user"])
	s.letUsersIn()
	denied := func(when string) {
		t.Helper()
		(&run{t: t, mnt: s.mnt}).as(1001, func() {
			for _, name := range append(secret, "ours") {
				if f, err := os.OpenFile(s.path(name), os.O_RDONLY|unix.O_NONBLOCK, 0); !errors.Is(err, unix.EACCES) {
					t.Errorf("%s: 1001 opens %s: %v", when, name, err)
					f.Close()
				}
			}
			if _, err := os.ReadFile(s.path("open")); err != nil {
				t.Error(err)
			}
		})
		for _, name := range append(secret, "dir", "ours") {
			if attrs := xattrs(s.path(name)); strings.Contains(attrs, "acl") {
				t.Errorf("%s: %s has %s", when, name, attrs)
			}
		}
	}
	s.mount()
	denied("before")
	// One that has the file open writes first, and then makes it a program, by the mode
	// that he was shown.
	f, err := os.OpenFile(s.path("write"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("x")
	steps := []error{err}
	for _, name := range []string{"chmod", "write"} {
		info, err := os.Stat(s.path(name))
		if err != nil {
			t.Fatal(err)
		}
		steps = append(steps, os.Chmod(s.path(name), info.Mode()|0o100))
	}
	for _, name := range append(secret, "dir", "ours", "open") {
		steps = append(steps, os.Chtimes(s.path(name), old, old))
	}
	for _, err := range append(steps, f.Close()) {
		if err != nil {
			t.Error(err)
		}
	}
	denied("after")
	for name, want := range map[string]os.FileMode{"user": 0o600, "group": 0o640, "mask": 0o600, "chmod": 0o700, "open": 0o644} {
		if info, err := os.Stat(s.path(name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	// Who asks for more gets it.
	if err := os.Chmod(s.path("mask"), 0o640); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(s.path("mask")); err != nil || info.Mode() != 0o640 {
		t.Errorf("mask: %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(s.path("mask"), 0o600); err != nil {
		t.Error(err)
	}
	s.remount()
	denied("in the next mount")
}

// TestReserved: where owners are not kept in attributes, those are any others, as a
// union in this one needs them, but for that which would make the next mount of the
// upper keep them so.
func TestReserved(t *testing.T) {
	const name = "user.containers.override_stat"
	s := newStack(t, 1)
	fill(t, s.lowers[0], tree("low: text"))
	s.mount()
	reserved(t, s.mnt, name)
	setxattr(t, s.path("low"), name, "0:0:4755")
	// A fuse-overlayfs in here takes this for an upper without attributes.
	marks := func() {
		t.Helper()
		for _, path := range []string{s.path("low"), s.mnt} {
			for _, mark := range []string{"opaque", "origin", "override_stat"} {
				if err := unix.Setxattr(path, "user.fuseoverlayfs."+mark, []byte("0:0:4755"), 0); err != unix.EOPNOTSUPP {
					t.Errorf("%s: another's mark %s: %v", path, mark, err)
				}
			}
		}
	}
	marks()
	s.remount()
	if info, err := os.Stat(s.path("low")); err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if names := xattrs(s.path("low")); !strings.Contains(names, name) {
		t.Errorf("lost: %s", names)
	}
	s.change = func(c *serveConfig) { c.XattrPermissions = 2 }
	s.remount()
	marks()
}

// TestRedirects: directories of lower layers are renamed without being copied;
// the next mount and the kernel, mounted by real root, see the same tree.
func TestRedirects(t *testing.T) {
	realRootOnly(t)
	redirecting := func(c *serveConfig) { c.Redirect = true }
	s := newStack(t, 2)
	s.change = redirecting
	fill(t, s.lowers[1], tree("d/x: 1", "d/sub/y: 2", "d/sub/deep/z", "other/o", "gone/g", strings.Repeat("n", 200)+"/"+strings.Repeat("m", 200)+"/f"))
	fill(t, s.lowers[0], tree("d/top", "d/sub/w", "!gone", "pure/p"))
	s.mount()
	mv := func(a, b string) {
		t.Helper()
		if err := os.Rename(s.path(a), s.path(b)); err != nil {
			t.Error(err)
		}
	}
	mv("d", "e")
	if got := names(t, s.upper); got != "d e" {
		t.Errorf("the rename copied: %s", got)
	}
	mv("e/sub", "e/sub2")
	mv("e/sub2", "moved") // out of a renamed directory
	mv("moved/deep", "other/deep")
	if err := os.Mkdir(s.path("d"), 0o755); err != nil { // the old name, anew
		t.Error(err)
	}
	mv("e", "d/back")
	mv("pure", "gone")
	mv(strings.Repeat("n", 200)+"/"+strings.Repeat("m", 200), "toolong")
	if err := unix.Renameat2(unix.AT_FDCWD, s.path("other"), unix.AT_FDCWD, s.path("moved"), unix.RENAME_EXCHANGE); err != nil {
		t.Error(err)
	}
	want := dump(t, s.mnt)
	if got, w := names(t, s.mnt), "d d/back d/back/top d/back/x gone gone/p moved moved/deep moved/deep/z moved/o "+strings.Repeat("n", 200)+
		" other other/w other/y toolong toolong/f"; got != w {
		t.Errorf("merged:\n%s\nwant\n%s", got, w)
	}
	s.remount()
	diff(t, "the tree after a remount", want, dump(t, s.mnt))
	s.unmount()
	s.kernelMountWith("redirect_dir=on", s.upper, filepath.Join(s.base, "work"), s.mnt)
	diff(t, "the kernel's view", strip(want), strip(dump(t, s.mnt)))
	unix.Unmount(s.mnt, 0)
	// With "userxattr" the kernel refuses what it does not follow, instead of
	// showing half of it.
	s.kernelMount(s.upper, filepath.Join(s.base, "work"), s.mnt)
	if _, err := os.Lstat(s.path("other")); err == nil {
		t.Error("with userxattr the kernel shows the directory without what is below")
	}
}

var userMarks = regexp.MustCompile(` ?user\.overlay\.[^ ]*`)

// strip removes the attributes that only count with "userxattr": without it
// the kernel shows them.
func strip(lines []string) []string {
	var out []string
	for _, l := range lines {
		out = append(out, strings.TrimSpace(userMarks.ReplaceAllString(l, "")))
	}
	return out
}

func realRootOnly(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 || usertest.Active() {
		t.Skip("only for real root")
	}
}

// TestKernelsRedirects: what the kernel makes of random renames with
// "redirect_dir=on" is the same tree for us, as an upper and as a lower layer.
func TestKernelsRedirects(t *testing.T) {
	realRootOnly(t)
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 5))
		s := newStack(t, 3)
		s.prefix = "trusted.overlay."
		for i, dir := range s.lowers {
			s.randomTree(r, dir, 3, i+1 < len(s.lowers))
		}
		work := filepath.Join(s.base, "work")
		s.kernelMountWith("redirect_dir=on", s.upper, work, s.mnt)
		randomRenames(r, s.mnt, 120)
		want := dump(t, s.mnt)
		unix.Unmount(s.mnt, 0)
		s.mount()
		diff(t, fmt.Sprintf("seed %d: the kernel's upper", seed), strip(want), strip(dump(t, s.mnt)))
		s.unmount()
		s.lowers = append([]string{s.upper}, s.lowers...)
		s.upper = filepath.Join(s.base, "upper2")
		mkdirs(t, s.upper)
		s.change = func(c *serveConfig) { c.Redirect = true }
		s.mount()
		diff(t, fmt.Sprintf("seed %d: as a lower layer", seed), strip(want), strip(dump(t, s.mnt)))
		randomRenames(r, s.mnt, 120)
		want = dump(t, s.mnt)
		s.remount()
		diff(t, fmt.Sprintf("seed %d: renamed once more", seed), strip(want), strip(dump(t, s.mnt)))
		s.unmount()
		s.kernelMountWith("redirect_dir=on", s.upper, work, s.mnt)
		diff(t, fmt.Sprintf("seed %d: the kernel's view of that", seed), strip(want), strip(dump(t, s.mnt)))
		unix.Unmount(s.mnt, 0)
		if t.Failed() {
			return
		}
	}
}

func randomRenames(r *rand.Rand, mnt string, n int) {
	path := func() string {
		parts := []string{mnt}
		for range 1 + r.IntN(3) {
			parts = append(parts, pool[r.IntN(len(pool))])
		}
		return filepath.Join(parts...)
	}
	for range n {
		switch a, b := path(), path(); r.IntN(6) {
		case 0:
			os.Remove(a)
		case 1:
			os.Mkdir(a, 0o755)
		case 2:
			unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
		default:
			unix.Rename(a, b)
		}
	}
}

// TestMetacopy: a file whose data the kernel left below is refused, not shown
// as zeroes.
func TestMetacopy(t *testing.T) {
	realRootOnly(t)
	s := newStack(t, 1)
	fill(t, s.lowers[0], tree("f: "+strings.Repeat("data", 5000)))
	s.kernelMountWith("metacopy=on,redirect_dir=on", s.upper, filepath.Join(s.base, "work"), s.mnt)
	if err := os.Chmod(s.path("f"), 0o600); err != nil {
		t.Fatal(err)
	}
	unix.Unmount(s.mnt, 0)
	s.mount()
	if b, err := os.ReadFile(s.path("f")); err == nil {
		t.Errorf("read %d bytes, %.8q", len(b), b)
	}
}

// TestInodeNumbersLast: a file that was copied up, linked or renamed has the
// same number at the next mount, in its directory's listing, too; a copy of
// the upper does not claim the numbers for itself.
func TestInodeNumbersLast(t *testing.T) {
	s := newStack(t, 1)
	fill(t, s.lowers[0], tree("a: 1", "b: 2", "dir/c: 3", "dir/sub/d: 4", "to/"))
	s.mount()
	ino := func(name string) uint64 {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(s.path(name), &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	listed := func(name string) uint64 {
		t.Helper()
		out, err := exec.Command("ls", "-ia", s.path(filepath.Dir(name))).Output()
		if err != nil {
			t.Fatal(err)
		}
		f := strings.Fields(string(out))
		var n uint64
		fmt.Sscan(f[slices.Index(f, filepath.Base(name))-1], &n)
		return n
	}
	was := map[string]uint64{"a": ino("a"), "to/moved": ino("b"), "new/linked": ino("dir/c"), "dir2": ino("dir"), "dir2/sub/d": ino("dir/sub/d")}
	for _, err := range []error{
		os.Chmod(s.path("a"), 0o600), os.Rename(s.path("b"), s.path("to/moved")), os.Mkdir(s.path("new"), 0o755), os.Link(s.path("dir/c"), s.path("new/linked")),
		os.Rename(s.path("dir"), s.path("dir2")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string) {
		for name, n := range was {
			if got := ino(name); got != n {
				t.Errorf("%s: %s has number %d, had %d", when, name, got, n)
			}
		}
	}
	check("at once")
	s.remount()
	for name, n := range was {
		if got := listed(name); got != n {
			t.Errorf("%s is listed with number %d, had %d", name, got, n)
		}
	}
	check("after a remount")
	s.unmount()
	s.kernelMount(s.upper, filepath.Join(s.base, "work"), s.mnt)
	dump(t, s.mnt)
	unix.Unmount(s.mnt, 0)
	s.mount()
	check("after the kernel had it")
	s.unmount()

	copied := filepath.Join(s.base, "copy")
	if out, err := exec.Command("cp", "-a", s.upper, copied).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	c := newStack(t, 0)
	c.lowers, c.upper = s.lowers, copied
	mkdirs(t, filepath.Join(s.base, "work2"))
	c.base, c.change = s.base, func(sc *serveConfig) { sc.Work = filepath.Join(s.base, "work2") }
	c.mount()
	var st unix.Stat_t
	if err := unix.Lstat(c.path("a"), &st); err != nil || st.Ino == was["a"] {
		t.Errorf("the copy claims number %d, %v", st.Ino, err)
	}
}

// TestNoDevices: without mknod whiteouts are files with an attribute, which we
// read in any layer, and the kernel in lower ones.
func TestNoDevices(t *testing.T) {
	s := newStack(t, 1)
	s.change = func(c *serveConfig) { c.NoDevices = true }
	fill(t, s.lowers[0], tree("a", "dir/x", "dir/y", "gone/z", "ren/r"))
	s.mount()
	for _, err := range []error{
		os.Remove(s.path("a")), os.Remove(s.path("dir/x")), os.RemoveAll(s.path("gone")),
		os.Rename(s.path("ren"), s.path("dir/ren")), os.Rename(s.path("dir/y"), s.path("y")),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	want := "dir dir/ren dir/ren/r y"
	s.remount()
	if got := names(t, s.mnt); got != want {
		t.Errorf("after a remount: %s, want %s", got, want)
	}
	s.unmount()
	filepath.WalkDir(s.upper, func(path string, d os.DirEntry, err error) error {
		if d.Type()&os.ModeCharDevice != 0 {
			t.Errorf("%s is a device", path)
		}
		return err
	})
	s.lowers = append([]string{s.upper}, s.lowers...)
	s.upper = filepath.Join(s.base, "upper2")
	mkdirs(t, s.upper)
	s.kernelMount(s.upper, filepath.Join(s.base, "work"), s.mnt)
	if got := names(t, s.mnt); got != want && kernelAtLeast(6, 8) {
		t.Errorf("in the kernel, as a lower layer: %s, want %s", got, want)
	}
}

func kernelAtLeast(major, minor int) bool {
	var u unix.Utsname
	unix.Uname(&u)
	var a, b int
	fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b)
	return a > major || a == major && b >= minor
}
