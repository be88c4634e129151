package fs_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"plash/internal/usertest"
)

// Each case builds lower layers and then does something in the mounted tree.
// It is done on kernel overlayfs and on ours: results, errors and the tree
// must be equal, also after a remount, and the kernel must see the same tree
// when it mounts our upper.

// old is a time that no test leaves by accident.
var old = time.Date(2001, 2, 3, 4, 5, 6, 789012345, time.UTC)

// layer fills a lower directory.
type layer func(t *testing.T, dir string)

// A run is one case on one mount; its log is compared.
type run struct {
	t   *testing.T
	mnt string
	log []string
}

func (r *run) path(name string) string { return filepath.Join(r.mnt, name) }

// do notes an operation's outcome.
func (r *run) do(what string, err error) {
	text := "ok"
	var errno syscall.Errno
	if errors.As(err, &errno) {
		text = errno.Error()
	} else if err != nil {
		text = err.Error()
	}
	r.log = append(r.log, what+": "+text)
}

func (r *run) note(what string, value any) {
	r.log = append(r.log, fmt.Sprintf("%s = %v", what, value))
}

func (r *run) read(name string) {
	b, err := os.ReadFile(r.path(name))
	r.do("read "+name, err)
	if err == nil {
		r.note("content of "+name, fmt.Sprintf("%d %.20q", len(b), b))
	}
}

func (r *run) write(name string, flags int, data string) {
	f, err := os.OpenFile(r.path(name), flags, 0o644)
	r.do("open "+name, err)
	if err != nil {
		return
	}
	_, err = f.WriteString(data)
	r.do("write "+name, err)
	r.do("close "+name, f.Close())
}

func (r *run) list(name string) {
	ents, err := os.ReadDir(r.path(name))
	r.do("list "+name, err)
	var names []string
	for _, e := range ents {
		names = append(names, e.Name()+"/"+e.Type().String())
	}
	r.note("names in "+name, names)
}

func (r *run) stat(name string) {
	var st unix.Stat_t
	err := unix.Lstat(r.path(name), &st)
	r.do("stat "+name, err)
	if err == nil {
		r.note("attributes of "+name, describe(&st))
	}
}

func describe(st *unix.Stat_t) string {
	s := fmt.Sprintf("%o %d:%d rdev %d", st.Mode, st.Uid, st.Gid, st.Rdev)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		s += fmt.Sprintf(" size %d", st.Size)
	}
	if t := time.Unix(st.Mtim.Unix()); t.Before(time.Now().Add(-time.Hour)) {
		s += " mtime " + t.UTC().String()
	}
	return s
}

// dump describes the whole tree.
func dump(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		line := rel + " " + describe(&st)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", sha256.Sum256(b))
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		out = append(out, line+" "+xattrs(path))
		return nil
	})
	if err != nil {
		t.Errorf("walk: %v", err)
	}
	return out
}

func xattrs(path string) string {
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return ""
	}
	var out []string
	for _, name := range strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		v := make([]byte, 4096)
		k, _ := unix.Lgetxattr(path, name, v)
		out = append(out, fmt.Sprintf("%s=%q", name, v[:max(k, 0)]))
	}
	sort.Strings(out)
	return strings.Join(out, " ")
}

func diff(t *testing.T, what string, kernel, ours []string) {
	t.Helper()
	if strings.Join(kernel, "\n") == strings.Join(ours, "\n") {
		return
	}
	for i := 0; i < len(kernel) || i < len(ours); i++ {
		var k, o string
		if i < len(kernel) {
			k = kernel[i]
		}
		if i < len(ours) {
			o = ours[i]
		}
		if k != o {
			t.Errorf("%s differs at line %d:\nkernel %s\nours   %s", what, i, k, o)
			return
		}
	}
}

// kernelMount mounts the stack with overlayfs, if the kernel can.
func (s *stack) kernelMount(upper, work, mnt string) {
	s.t.Helper()
	s.kernelMountWith("userxattr", upper, work, mnt)
}

func (s *stack) kernelMountWith(opts, upper, work, mnt string) {
	s.t.Helper()
	lowers := strings.Join(s.lowers, ":")
	opts += ",lowerdir=" + lowers + ",upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", mnt, "overlay", 0, opts); err != nil {
		s.t.Skipf("kernel overlayfs cannot be mounted here: %v", err)
	}
	s.t.Cleanup(func() { unix.Unmount(mnt, unix.MNT_DETACH) })
}

func compare(t *testing.T, layers []layer, ops func(r *run)) {
	t.Helper()
	build := func() *stack {
		s := newStack(t, len(layers))
		s.letUsersIn()
		for i, fill := range layers {
			fill(t, s.lowers[i])
			setTimes(t, s.lowers[i])
		}
		return s
	}
	k := build()
	k.kernelMount(k.upper, filepath.Join(k.base, "work"), k.mnt)
	kernel := &run{t: t, mnt: k.mnt}
	ops(kernel)

	s := build()
	s.mount()
	ours := &run{t: t, mnt: s.mnt}
	ops(ours)
	diff(t, "the outcome", kernel.log, ours.log)
	want := dump(t, k.mnt)
	diff(t, "the tree", want, dump(t, s.mnt))
	s.remount()
	diff(t, "the tree after a remount", want, dump(t, s.mnt))
	s.unmount()
	s.kernelMount(s.upper, filepath.Join(s.base, "work"), s.mnt)
	diff(t, "the kernel's view of our upper", want, dump(t, s.mnt))
}

func setTimes(t *testing.T, dir string) {
	var all []string
	filepath.WalkDir(dir, func(path string, _ fs.DirEntry, _ error) error {
		all = append(all, path)
		return nil
	})
	ts := unix.NsecToTimespec(old.UnixNano())
	for i := range all {
		err := unix.UtimesNanoAt(unix.AT_FDCWD, all[len(all)-1-i], []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
		if err != nil {
			t.Fatal(err)
		}
	}
}

// tree makes files: a name that ends in / is a directory, "a -> b" a symlink,
// "a = b" a hard link of b, "!a" a whiteout, "=a/" an opaque directory;
// "a: text" a file with that text.
func tree(names ...string) layer {
	return func(t *testing.T, dir string) {
		t.Helper()
		for _, n := range names {
			if err := plant(dir, n); err != nil {
				t.Fatalf("%s: %v", n, err)
			}
		}
	}
}

func plant(dir, n string) error {
	if name, ok := strings.CutPrefix(n, "!"); ok {
		return unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR, 0)
	}
	name, opaque := strings.CutPrefix(n, "=")
	if link, target, ok := strings.Cut(name, " -> "); ok {
		return os.Symlink(target, filepath.Join(dir, link))
	}
	if link, target, ok := strings.Cut(name, " = "); ok {
		return os.Link(filepath.Join(dir, target), filepath.Join(dir, link))
	}
	file, text, isFile := strings.Cut(name, ": ")
	path := filepath.Join(dir, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	switch {
	case strings.HasSuffix(name, "/"):
		if err := os.MkdirAll(path, 0o755); err != nil || !opaque {
			return err
		}
		return unix.Setxattr(path, "user.overlay.opaque", []byte("y"), 0)
	case isFile:
		return os.WriteFile(path, []byte(text), 0o644)
	}
	return os.WriteFile(path, []byte(file), 0o644)
}

// base is a pair of layers in which every kind of object starts below.
var base = []layer{
	tree("top: top", "dir/top", "d2/!", "over: new", "!gone", "=opaque/", "opaque/new", "hides: file", "empty/"),
	func(t *testing.T, dir string) {
		tree("file: content", "big: "+strings.Repeat("0123456789abcdef", 20000), "dir/a", "dir/b: bb", "dir/sub/deep/x: x",
			"link -> file", "dangling -> nowhere", "hard1: shared", "hard2 = hard1", "over: old", "gone", "opaque/old",
			"hides/child", "d2/x", "d2/y", "emptylow/", "dir/sub/other", "exe: #!/bin/sh")(t, dir)
		for _, err := range []error{
			unix.Mkfifo(filepath.Join(dir, "fifo"), 0o640),
			unix.Mknod(filepath.Join(dir, "sock"), unix.S_IFSOCK|0o600, 0),
			unix.Setxattr(filepath.Join(dir, "file"), "user.color", []byte("blue"), 0),
			unix.Setxattr(filepath.Join(dir, "dir"), "user.kind", []byte("tree"), 0),
			os.Chmod(filepath.Join(dir, "exe"), 0o755),
			os.Chmod(filepath.Join(dir, "dir/sub"), 0o751|os.ModeSticky),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	},
}

var cases = map[string]func(r *run){
	"look": func(r *run) {
		for _, d := range []string{".", "dir", "dir/sub", "opaque", "d2", "empty"} {
			r.list(d)
		}
		for _, f := range []string{"file", "gone", "opaque/old", "over", "hides", "dir/sub/deep/x", "d2/!", "fifo", "sock", "link", "dangling"} {
			r.stat(f)
		}
		r.read("over")
		r.stat(strings.Repeat("n", 256))
		r.stat("file/x")
	},
	"append":   func(r *run) { r.write("file", os.O_WRONLY|os.O_APPEND, "more"); r.read("file") },
	"truncate": func(r *run) { r.write("big", os.O_WRONLY|os.O_TRUNC, "short"); r.read("big") },
	"truncate to a length": func(r *run) {
		r.do("truncate", os.Truncate(r.path("big"), 12345))
		r.read("big")
		r.do("grow", os.Truncate(r.path("file"), 100000))
		r.read("file")
	},
	"write inside": func(r *run) {
		f, err := os.OpenFile(r.path("big"), os.O_RDWR, 0)
		r.do("open", err)
		_, err = f.WriteAt([]byte("XYZ"), 100000)
		r.do("write", err)
		r.do("close", f.Close())
	},
	"open for writing only": func(r *run) {
		f, err := os.OpenFile(r.path("file"), os.O_WRONLY, 0)
		r.do("open", err)
		r.do("close", f.Close())
	},
	"chmod": func(r *run) {
		for _, f := range []string{"file", "dir", "dir/sub/deep/x", "fifo", "sock"} {
			r.do("chmod "+f, os.Chmod(r.path(f), 0o600))
			r.stat(f)
		}
	},
	"utimes": func(r *run) {
		for _, f := range []string{"file", "dir", "link", "fifo"} {
			ts := []unix.Timespec{{Sec: 1e9, Nsec: 123456789}, {Sec: 1e9 + 1, Nsec: 987654321}}
			r.do("utimes "+f, unix.UtimesNanoAt(unix.AT_FDCWD, r.path(f), ts, unix.AT_SYMLINK_NOFOLLOW))
			r.stat(f)
		}
	},
	"chown": func(r *run) {
		for _, f := range []string{"file", "dir", "link", "fifo"} {
			r.do("chown "+f, os.Lchown(r.path(f), 0, 0))
			r.do("chown "+f, os.Lchown(r.path(f), 12, 34))
			r.stat(f)
		}
	},
	"suid goes with chown of nothing": func(r *run) {
		for _, name := range []string{"file", "exe", "fifo", "dir/sub"} {
			r.do("chmod", unix.Chmod(r.path(name), 0o6775))
			r.do("chown", os.Lchown(r.path(name), -1, -1))
			r.stat(name)
		}
	},
	"suid goes with chown and write": func(r *run) {
		r.do("chmod", unix.Chmod(r.path("exe"), 0o6755))
		r.do("chown", os.Chown(r.path("exe"), 0, 0))
		r.stat("exe")
	},
	"xattrs": func(r *run) {
		r.note("before", xattrs(r.path("file")))
		r.do("set", unix.Setxattr(r.path("file"), "user.new", []byte("v"), 0))
		r.do("create existing", unix.Setxattr(r.path("file"), "user.new", []byte("v"), unix.XATTR_CREATE))
		r.do("replace missing", unix.Setxattr(r.path("file"), "user.none", []byte("v"), unix.XATTR_REPLACE))
		r.do("remove", unix.Removexattr(r.path("file"), "user.color"))
		r.do("remove missing", unix.Removexattr(r.path("dir"), "user.none"))
		r.do("set on directory", unix.Setxattr(r.path("dir/sub"), "user.d", []byte("w"), 0))
		r.note("after", xattrs(r.path("file")))
		r.note("directory", xattrs(r.path("dir/sub")))
		_, err := unix.Getxattr(r.path("file"), "user.color", nil)
		r.do("get removed", err)
	},
	"overlay's own xattrs are escaped": func(r *run) {
		r.do("set", unix.Setxattr(r.path("dir"), "user.overlay.opaque", []byte("y"), 0))
		r.note("shown", xattrs(r.path("dir")))
		r.list("dir")
	},
	"acl": func(r *run) {
		acl := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x00\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"
		r.do("access", unix.Setxattr(r.path("file"), "system.posix_acl_access", []byte(acl), 0))
		r.stat("file")
		r.do("default", unix.Setxattr(r.path("dir"), "system.posix_acl_default", []byte(acl), 0))
		r.do("mkdir", os.Mkdir(r.path("dir/made"), 0o777))
		r.write("dir/new", os.O_CREATE|os.O_WRONLY, "x")
		r.do("rm", os.Remove(r.path("dir/a")))
		r.write("dir/a", os.O_CREATE|os.O_WRONLY, "again") // over a whiteout
		r.stat("dir/a")
		r.note("xattrs", xattrs(r.path("dir/made"))+xattrs(r.path("dir/new"))+xattrs(r.path("dir/a")))
	},
	"sgid directory": func(r *run) {
		r.do("chown", os.Chown(r.path("dir"), -1, 7))
		r.do("chmod", unix.Chmod(r.path("dir"), 0o2775))
		r.do("mkdir", os.Mkdir(r.path("dir/made"), 0o755))
		r.stat("dir/made")
		r.do("rm", os.Remove(r.path("dir/b")))
		r.do("mkdir over whiteout", os.Mkdir(r.path("dir/b"), 0o755))
		r.stat("dir/b")
		r.write("dir/new", os.O_CREATE|os.O_WRONLY, "x")
		r.stat("dir/new")
	},
	"umask": func(r *run) {
		old := unix.Umask(0o027)
		defer unix.Umask(old)
		r.do("mkdir", unix.Mkdir(r.path("made"), 0o777))
		fd, err := unix.Open(r.path("new"), unix.O_CREAT|unix.O_RDWR, 0o666)
		r.do("create", err)
		unix.Close(fd)
		r.do("mkfifo", unix.Mkfifo(r.path("ff"), 0o666))
		for _, f := range []string{"made", "new", "ff"} {
			r.stat(f)
		}
	},
	"create of every type": func(r *run) {
		r.do("mkdir", os.Mkdir(r.path("dir/sub/made"), 0o755))
		r.write("dir/sub/made/new", os.O_CREATE|os.O_EXCL|os.O_WRONLY, "new")
		r.do("symlink", os.Symlink("some/where", r.path("dir/sub/s")))
		r.do("fifo", unix.Mkfifo(r.path("dir/sub/f"), 0o644))
		r.do("socket", unix.Mknod(r.path("dir/sub/k"), unix.S_IFSOCK|0o644, 0))
		r.do("whiteout device", unix.Mknod(r.path("dir/sub/w"), unix.S_IFCHR, 0))
		r.do("existing", os.Mkdir(r.path("file"), 0o755))
		r.write("dir/a", os.O_CREATE|os.O_EXCL|os.O_WRONLY, "")
		r.list("dir/sub")
	},
	"devices": func(r *run) {
		if usertest.Active() {
			return // not for users
		}
		r.do("char", unix.Mknod(r.path("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		r.do("block", unix.Mknod(r.path("blk"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 300))))
		r.stat("null")
		r.stat("blk")
		r.do("chmod", os.Chmod(r.path("blk"), 0o640))
		r.do("write", os.WriteFile(r.path("null"), []byte("x"), 0))
	},
	"unlink": func(r *run) {
		for _, f := range []string{"file", "link", "fifo", "sock", "top", "over", "dir/a", "dir/top", "hides", "hard1"} {
			r.do("unlink "+f, unix.Unlink(r.path(f)))
			r.stat(f)
		}
		r.do("unlink directory", unix.Unlink(r.path("dir")))
		r.do("unlink missing", unix.Unlink(r.path("gone")))
		r.list(".")
		r.list("dir")
	},
	"unlink and make again": func(r *run) {
		r.do("unlink", os.Remove(r.path("file")))
		r.write("file", os.O_CREATE|os.O_WRONLY, "second")
		r.read("file")
		r.note("xattrs", xattrs(r.path("file")))
		r.do("unlink", os.Remove(r.path("link")))
		r.do("mkdir", os.Mkdir(r.path("link"), 0o755))
		r.do("link over whiteout", os.Remove(r.path("fifo")))
		r.do("link over whiteout", os.Link(r.path("file"), r.path("fifo")))
	},
	"rmdir": func(r *run) {
		r.do("full", unix.Rmdir(r.path("dir")))
		r.do("rm -r", os.RemoveAll(r.path("dir")))
		r.stat("dir")
		r.do("empty", unix.Rmdir(r.path("empty")))
		r.do("empty lower", unix.Rmdir(r.path("emptylow")))
		r.do("not a directory", unix.Rmdir(r.path("file")))
		r.do("opaque", os.RemoveAll(r.path("opaque")))
		r.list(".")
	},
	"rmdir and make again hides the old content": func(r *run) {
		r.do("rm -r", os.RemoveAll(r.path("dir")))
		r.do("mkdir", os.Mkdir(r.path("dir"), 0o700))
		r.list("dir")
		r.stat("dir/a")
		r.write("dir/a", os.O_CREATE|os.O_WRONLY, "a")
	},
	"rename a file": func(r *run) {
		r.do("lower", os.Rename(r.path("file"), r.path("moved")))
		r.do("upper", os.Rename(r.path("moved"), r.path("dir/moved2")))
		r.do("over lower", os.Rename(r.path("dir/moved2"), r.path("dir/a")))
		r.do("back", os.Rename(r.path("dir/a"), r.path("file")))
		r.do("symlink", os.Rename(r.path("link"), r.path("dir/link")))
		r.do("fifo", os.Rename(r.path("fifo"), r.path("gone")))
		r.do("onto directory", os.Rename(r.path("file"), r.path("dir")))
		r.do("missing", os.Rename(r.path("nothing"), r.path("x")))
		r.list(".")
		r.list("dir")
		r.read("file")
	},
	"rename flags": func(r *run) {
		re := func(from, to string, flags uint) {
			r.do(fmt.Sprint(from, " ", to, " ", flags), unix.Renameat2(unix.AT_FDCWD, r.path(from), unix.AT_FDCWD, r.path(to), flags))
		}
		re("file", "top", unix.RENAME_NOREPLACE)
		re("file", "fresh", unix.RENAME_NOREPLACE)
		re("big", "dir/b", unix.RENAME_EXCHANGE)
		re("top", "over", unix.RENAME_EXCHANGE)
		re("link", "nothing", unix.RENAME_EXCHANGE)
		r.read("dir/b")
		r.read("top")
		r.list(".")
	},
	"hard links": func(r *run) {
		r.do("link lower", os.Link(r.path("file"), r.path("file2")))
		r.write("file2", os.O_WRONLY|os.O_APPEND, "!")
		r.read("file")
		r.do("link symlink", unix.Linkat(unix.AT_FDCWD, r.path("link"), unix.AT_FDCWD, r.path("link2"), 0))
		r.do("link fifo", os.Link(r.path("fifo"), r.path("dir/fifo2")))
		r.do("link directory", os.Link(r.path("dir"), r.path("dir2")))
		r.do("existing", os.Link(r.path("file"), r.path("top")))
		r.do("unlink", os.Remove(r.path("file")))
		r.stat("file2")
	},
	"rename over an open file": func(r *run) {
		f, err := os.Open(r.path("over"))
		r.do("open", err)
		defer f.Close()
		r.do("rename", os.Rename(r.path("file"), r.path("over")))
		b := make([]byte, 10)
		n, _ := f.ReadAt(b, 0)
		r.note("still", string(b[:n]))
		r.read("over")
	},
	"unlinked but open": func(r *run) {
		for _, name := range []string{"file", "top"} {
			f, err := os.OpenFile(r.path(name), os.O_RDWR, 0)
			r.do("open", err)
			r.do("unlink", os.Remove(r.path(name)))
			_, err = f.WriteAt([]byte("after"), 2)
			r.do("write", err)
			r.do("truncate", f.Truncate(6))
			r.do("sync", f.Sync())
			r.do("chmod", f.Chmod(0o600))
			b := make([]byte, 20)
			n, _ := f.ReadAt(b, 0)
			r.note("content", string(b[:n]))
			var st unix.Stat_t
			r.do("stat", unix.Fstat(int(f.Fd()), &st))
			r.note("attributes", describe(&st)+fmt.Sprint(" links ", st.Nlink))
			r.do("close", f.Close())
		}
		lower, err := os.Open(r.path("big"))
		r.do("open", err)
		r.do("unlink", os.Remove(r.path("big")))
		b := make([]byte, 20)
		n, _ := lower.ReadAt(b, 1000)
		r.note("content", string(b[:n]))
		lower.Close()
	},
	"removed working directory": func(r *run) {
		d, err := os.Open(r.path("empty"))
		r.do("open", err)
		defer d.Close()
		r.do("rmdir", os.Remove(r.path("empty")))
		_, err = d.Readdirnames(-1)
		r.do("list", err)
		var st unix.Stat_t
		r.do("stat", unix.Fstat(int(d.Fd()), &st))
		r.do("create", unix.Mkdirat(int(d.Fd()), "x", 0o755))
	},
	"holes": func(r *run) {
		f, err := os.OpenFile(r.path("sparse"), os.O_CREATE|os.O_RDWR, 0o644)
		r.do("open", err)
		defer f.Close()
		f.WriteAt([]byte("data"), 1<<20)
		f.Truncate(4 << 20)
		for _, at := range []int64{0, 1 << 20, 2 << 20} {
			data, err := f.Seek(at, unix.SEEK_DATA)
			r.do("data", err)
			r.note("data", data)
			hole, err := f.Seek(at, unix.SEEK_HOLE)
			r.do("hole", err)
			r.note("hole", hole)
		}
		low, err := os.Open(r.path("big"))
		r.do("open", err)
		defer low.Close()
		end, err := low.Seek(0, unix.SEEK_HOLE)
		r.do("hole", err)
		r.note("hole", end)
		// Longer, behind a hole, by data that is not written back yet.
		more, err := os.OpenFile(r.path("big"), os.O_RDWR, 0)
		r.do("open", err)
		defer more.Close()
		more.WriteAt([]byte("data"), end+1<<20)
		hole, err := more.Seek(0, unix.SEEK_HOLE)
		r.do("hole", err)
		r.note("hole", hole)
		data, err := more.Seek(hole, unix.SEEK_DATA)
		r.do("data", err)
		r.note("data", data)
	},
	"fallocate": func(r *run) {
		f, err := os.OpenFile(r.path("big"), os.O_RDWR, 0)
		r.do("open", err)
		defer f.Close()
		r.do("grow", unix.Fallocate(int(f.Fd()), 0, 0, 1<<20))
		r.do("punch", unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, 8192))
		r.do("keep", unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 2<<20, 4096))
		r.stat("big")
	},
	"copy_file_range": func(r *run) {
		in, err := os.Open(r.path("big"))
		r.do("open", err)
		defer in.Close()
		out, err := os.OpenFile(r.path("file"), os.O_RDWR, 0)
		r.do("open", err)
		defer out.Close()
		from, to := int64(1000), int64(3)
		n, err := unix.CopyFileRange(int(in.Fd()), &from, int(out.Fd()), &to, 50000, 0)
		r.do("copy", err)
		r.note("copied", n)
		r.read("file")
	},
	"tmpfile": func(r *run) {
		fd, err := unix.Open(r.path("dir/sub"), unix.O_TMPFILE|unix.O_RDWR, 0o640)
		r.do("open", err)
		if err != nil {
			return
		}
		f := os.NewFile(uintptr(fd), "tmp")
		defer f.Close()
		f.WriteString("nameless")
		r.do("link", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, r.path("dir/sub/named"), unix.AT_SYMLINK_FOLLOW))
		r.read("dir/sub/named")
		r.stat("dir/sub/named")
	},
	"shared mapping": func(r *run) {
		f, err := os.OpenFile(r.path("big"), os.O_RDWR, 0)
		r.do("open", err)
		defer f.Close()
		m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		r.do("mmap", err)
		copy(m[4000:], "through the mapping")
		r.do("msync", unix.Msync(m, unix.MS_SYNC))
		r.do("munmap", unix.Munmap(m))
		r.read("big")
		b := make([]byte, 30)
		f.ReadAt(b, 3990)
		r.note("content", string(b))
		p, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		r.do("mmap private", err)
		p[0] = 'X'
		r.note("private", string(p[:4]))
		unix.Munmap(p)
	},
	"statfs and fsync": func(r *run) {
		var st unix.Statfs_t
		r.do("statfs", unix.Statfs(r.mnt, &st))
		r.note("name length", st.Namelen)
		d, _ := os.Open(r.path("dir"))
		r.do("fsync directory", d.Sync())
		d.Close()
		f, _ := os.OpenFile(r.path("file"), os.O_RDWR, 0)
		r.do("fsync", f.Sync())
		r.do("fdatasync", unix.Fdatasync(int(f.Fd())))
		f.Close()
	},
	"replace an empty merged directory": func(r *run) {
		r.do("empty it", os.RemoveAll(r.path("d2/x")))
		r.do("empty it", os.RemoveAll(r.path("d2/y")))
		r.do("empty it", os.RemoveAll(r.path("d2/!")))
		r.do("mkdir", os.Mkdir(r.path("newdir"), 0o755))
		r.write("newdir/f", os.O_CREATE|os.O_WRONLY, "f")
		r.do("rename", unix.Rename(r.path("newdir"), r.path("d2")))
		r.list("d2")
		r.list(".")
	},
	"new directory over a removed one by rename": func(r *run) {
		r.do("rm -r", os.RemoveAll(r.path("dir")))
		r.do("mkdir", os.Mkdir(r.path("n"), 0o755))
		r.write("n/f", os.O_CREATE|os.O_WRONLY, "f")
		r.do("rename", os.Rename(r.path("n"), r.path("dir")))
		r.list("dir")
		r.do("onto full", os.Mkdir(r.path("m"), 0o755))
		r.do("onto full", unix.Rename(r.path("m"), r.path("opaque")))
	},
}

// better are cases in which overlayfs differs from what POSIX demands, and we
// do not: they are compared with a plain directory of the same content.
var better = map[string]func(r *run){
	"hard links stay one file": func(r *run) {
		r.write("hard1", os.O_WRONLY|os.O_APPEND, " and changed")
		r.read("hard2")
		links(r, "hard1")
		r.do("unlink", os.Remove(r.path("hard1")))
		r.read("hard2")
		r.write("hard2", os.O_WRONLY|os.O_APPEND, " again")
		links(r, "hard2")
		r.do("link", os.Link(r.path("hard2"), r.path("dir/hard3")))
		links(r, "hard2")
		r.read("dir/hard3")
	},
	"an unlinked hard link": func(r *run) {
		f, err := os.OpenFile(r.path("hard1"), os.O_RDWR, 0)
		r.do("open", err)
		defer f.Close()
		r.do("unlink", os.Remove(r.path("hard1")))
		_, err = f.WriteAt([]byte("SHA"), 0)
		r.do("write", err)
		r.read("hard2")
		links(r, "hard2")
		r.do("unlink", os.Remove(r.path("hard2")))
		b := make([]byte, 6)
		f.ReadAt(b, 0)
		r.note("content", string(b))
	},
	"chmod of an unlinked file": func(r *run) {
		f, err := os.Open(r.path("big"))
		r.do("open", err)
		defer f.Close()
		r.do("unlink", os.Remove(r.path("big")))
		r.do("chmod", f.Chmod(0o600))
	},
	"a shared mapping made before copy-up": func(r *run) {
		f, err := os.Open(r.path("big"))
		r.do("open", err)
		defer f.Close()
		m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
		r.do("mmap", err)
		defer unix.Munmap(m)
		r.note("before", string(m[:4]))
		w, err := os.OpenFile(r.path("big"), os.O_RDWR, 0)
		r.do("open", err)
		w.WriteAt([]byte("NEW!"), 0)
		w.Close()
		r.note("after", string(m[:4]))
	},
	"rename directories": func(r *run) {
		r.do("merged", os.Rename(r.path("dir"), r.path("moved")))
		r.list("moved")
		r.list("moved/sub")
		r.read("moved/sub/deep/x")
		r.stat("dir")
		r.do("into", os.Rename(r.path("moved"), r.path("d2/moved")))
		r.do("lower", os.Rename(r.path("emptylow"), r.path("was")))
		r.do("back", os.Rename(r.path("d2/moved"), r.path("dir")))
		r.list("dir")
		r.do("opaque", os.Rename(r.path("opaque"), r.path("dir/opaque")))
		r.do("upper", os.Rename(r.path("empty"), r.path("gone")))
		r.do("over empty", unix.Rename(r.path("dir/sub"), r.path("gone")))
		r.list("gone/deep")
		r.do("into itself", os.Rename(r.path("dir"), r.path("dir/opaque/x")))
		r.list(".")
	},
	"rename directories that are in use": func(r *run) {
		f, err := os.OpenFile(r.path("dir/b"), os.O_RDWR, 0)
		r.do("open", err)
		defer f.Close()
		d, err := os.Open(r.path("dir/sub/deep"))
		r.do("open", err)
		defer d.Close()
		r.do("rename", os.Rename(r.path("dir"), r.path("moved")))
		f.WriteString("BB")
		r.read("moved/b")
		r.do("create", unix.Mkdirat(int(d.Fd()), "made", 0o755))
		r.list("moved/sub/deep")
	},
	"exchange directories": func(r *run) {
		r.do("exchange", unix.Renameat2(unix.AT_FDCWD, r.path("dir"), unix.AT_FDCWD, r.path("d2"), unix.RENAME_EXCHANGE))
		r.list("dir")
		r.list("d2")
		r.do("with a file", unix.Renameat2(unix.AT_FDCWD, r.path("dir"), unix.AT_FDCWD, r.path("file"), unix.RENAME_EXCHANGE))
		r.read("dir")
		r.list("file")
	},
	"remove what was renamed": func(r *run) {
		r.do("rename", os.Rename(r.path("dir"), r.path("moved")))
		r.do("make", os.Mkdir(r.path("dir"), 0o755))
		r.list("dir")
		r.do("remove", os.RemoveAll(r.path("moved")))
		r.do("remove", os.RemoveAll(r.path("dir")))
		r.list(".")
	},
}

func links(r *run, name string) {
	var st unix.Stat_t
	r.do("stat", unix.Lstat(r.path(name), &st))
	r.note("links of "+name, st.Nlink)
}

func TestBetterThanTheKernel(t *testing.T) {
	for name, ops := range better {
		t.Run(name, func(t *testing.T) { comparePlain(t, ops) })
	}
}

// TestHardLinksLast: where the layer has an index a lower file with several names
// is one file in the upper, with all names that are visible, also those that
// nobody has looked at; for the next mount and for the kernel.
func TestHardLinksLast(t *testing.T) {
	s := newStack(t, 2)
	s.indexed = true
	low := s.lowers[1]
	fill(t, low, tree("a: text", "d/e/f/", "over/", "opaque/", "gone/", "d/b = a", "d/e/f/c = a", "hidden = a", "over/x = a", "opaque/y = a", "gone/z = a", "removed = a", "alone: 1",
		"link2/x: 2", "fifo2/x: 3"))
	for _, err := range []error{
		os.Symlink("a", filepath.Join(low, "link1")), os.Link(filepath.Join(low, "link1"), filepath.Join(low, "link2/l")),
		unix.Mkfifo(filepath.Join(low, "fifo1"), 0o600), os.Link(filepath.Join(low, "fifo1"), filepath.Join(low, "fifo2/f")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	fill(t, s.lowers[0], tree("hidden: other", "over: file", "opaque/own: 1"))
	s.mark(filepath.Join(s.lowers[0], "opaque"), "opaque", "y")
	if err := unix.Mknod(filepath.Join(s.lowers[0], "gone"), unix.S_IFCHR, 0); err != nil {
		t.Skip("whiteouts cannot be made here:", err)
	}
	s.mount()
	if err := os.Remove(s.path("removed")); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(s.path("d/b"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(" and more"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link1", "fifo2/f"} {
		if err := os.Lchown(s.path(name), 3, 4); err != nil {
			t.Skip("owners cannot be given here:", err)
		}
	}
	check := func(who string) {
		t.Helper()
		for _, names := range [][]string{{"a", "d/b", "d/e/f/c"}, {"link1", "link2/l"}, {"fifo1", "fifo2/f"}} {
			var first unix.Stat_t
			for i, name := range names {
				var st unix.Stat_t
				if err := unix.Lstat(s.path(name), &st); err != nil {
					t.Errorf("%s: %s: %v", who, name, err)
				}
				if i == 0 {
					first = st
				}
				if st.Ino != first.Ino || int(st.Nlink) != len(names) {
					t.Errorf("%s: %s is %d with %d links, %s is %d", who, name, st.Ino, st.Nlink, names[0], first.Ino)
				}
				if st.Mode&unix.S_IFMT == unix.S_IFREG {
					if text, err := os.ReadFile(s.path(name)); string(text) != "text and more" {
						t.Errorf("%s: %s: %q, %v", who, name, text, err)
					}
				} else if st.Uid != 3 {
					t.Errorf("%s: %s is of %d", who, name, st.Uid)
				}
			}
		}
		for name, want := range map[string]string{"hidden": "other", "over": "file", "opaque/own": "1"} {
			if text, err := os.ReadFile(s.path(name)); string(text) != want {
				t.Errorf("%s: %s: %q, %v", who, name, text, err)
			}
		}
		for _, name := range []string{"gone", "removed", "opaque/y"} {
			if _, err := os.Lstat(s.path(name)); !os.IsNotExist(err) {
				t.Errorf("%s: %s: %v", who, name, err)
			}
		}
	}
	s.unmount() // before anybody has looked at the others
	s.mount()
	check("we")
	s.unmount()
	s.indexed = false
	s.mount()
	check("we without the index")
	s.unmount()
	if os.Geteuid() == 0 && !usertest.Active() {
		s.kernelMount(s.upper, filepath.Join(s.base, "work"), s.mnt)
		check("the kernel")
	}
}

// comparePlain does ops on a mount and on a plain copy of what it shows.
func comparePlain(t *testing.T, ops func(r *run)) {
	s := newStack(t, len(base))
	for i, fill := range base {
		fill(t, s.lowers[i])
		setTimes(t, s.lowers[i])
	}
	s.mount()
	plain := filepath.Join(s.base, "plain")
	if out, err := exec.Command("cp", "-a", s.mnt, plain).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	want, ours := &run{t: t, mnt: plain}, &run{t: t, mnt: s.mnt}
	ops(want)
	ops(ours)
	diff(t, "the outcome", want.log, ours.log)
	tree := dump(t, plain)
	diff(t, "the tree", tree, dump(t, s.mnt))
	s.remount()
	diff(t, "the tree after a remount", tree, dump(t, s.mnt))
	s.unmount()
	s.kernelMount(s.upper, filepath.Join(s.base, "work"), s.mnt)
	diff(t, "the kernel's view of our upper", tree, dump(t, s.mnt))
}

func TestLikeTheKernel(t *testing.T) {
	for name, ops := range cases {
		t.Run(name, func(t *testing.T) { compare(t, base, ops) })
	}
}

// TestACLDropsSetGID: who sets an ACL on a file of a group that he is not in
// takes its set-gid bit away.
func TestACLDropsSetGID(t *testing.T) {
	realRootOnly(t)
	s := newStack(t, 1)
	fill(t, s.lowers[0], tree("dir/"))
	low := filepath.Join(s.lowers[0], "dir")
	if err := os.Chown(low, 1000, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chmod(low, 0o2775); err != nil {
		t.Fatal(err)
	}
	s.letUsersIn()
	s.mount()
	cmd := exec.Command("setfacl", "-m", "u:1001:r", s.path("dir"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if st, err := os.Stat(s.path("dir")); err != nil || st.Mode()&os.ModeSetgid != 0 || st.Mode().Perm() != 0o775 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}
