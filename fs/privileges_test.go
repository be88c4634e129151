package fs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What users may do, and what a file loses when one of them changes it.

// as does f as an ordinary user of the group with the same number.
func (r *run) as(id int, f func()) {
	as(id, func(func(string) string) error { f(); return nil })(nil)
}

// privileged has a program per way to change it, for user 1000 and for root,
// each with set-id bits and a capability, and directories of several kinds.
func privileged(t *testing.T, dir string) {
	t.Helper()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, who := range []string{"user", "root"} {
		for _, what := range changesOfPrograms {
			name := path(who + "/" + what.name)
			tree(who+"/"+what.name+": "+"0123456789")(t, dir)
			if who == "user" {
				os.Chown(name, 1000, 1000)
			}
			if err := unix.Chmod(name, 0o6755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Setxattr(name, "security.capability", fileCaps(), 0); err != nil {
				t.Skipf("no capabilities of files here: %v", err)
			}
		}
	}
	tree("sticky/a", "sticky/b", "sticky/c/", "sgid/gone", "acl/file", "acl/sub/", "secret/x", "from")(t, dir)
	for _, err := range []error{
		os.Chown(path("user"), 1000, 1000),
		os.Chown(path("sticky/a"), 1000, 1000), os.Chown(path("sticky/b"), 1001, 1001), os.Chown(path("sticky/c"), 1000, 1000),
		unix.Chmod(path("sticky"), 0o1777),
		os.Chown(path("sgid"), 1000, 7), unix.Chmod(path("sgid"), 0o2777),
		unix.Setxattr(path("acl/file"), "system.posix_acl_access", aclOf(6, 0), 0),
		unix.Setxattr(path("acl"), "system.posix_acl_access", aclOf(7, 0), 0),
		unix.Setxattr(path("acl"), "system.posix_acl_default", aclOf(5, 0), 0),
		os.Chmod(path("secret"), 0o711),
		unix.Chmod(path("secret/x"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// changesOfPrograms are ways to change a program, and whether they take its
// set-id bits and capabilities.
var changesOfPrograms = []struct {
	name string
	do   func(r *run, path string) error
}{
	{"write", func(r *run, path string) error { return writeSync(path, 0, "w") }},
	{"append", func(r *run, path string) error { return writeSync(path, os.O_APPEND, "w") }},
	{"open", func(r *run, path string) error { return writeSync(path, 0, "") }},
	{"truncopen", func(r *run, path string) error { return writeSync(path, os.O_TRUNC, "") }},
	{"truncate", func(r *run, path string) error { return os.Truncate(path, 3) }},
	{"fallocate", func(r *run, path string) error {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Fallocate(int(f.Fd()), 0, 0, 5000)
	}},
	{"copyrange", func(r *run, path string) error {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		from, err := os.Open(r.path("from"))
		if err != nil {
			return err
		}
		defer from.Close()
		_, err = unix.CopyFileRange(int(from.Fd()), nil, int(f.Fd()), nil, 3, 0)
		return err
	}},
	{"chmod", func(r *run, path string) error { return unix.Chmod(path, 0o6711) }},
	{"utimes", func(r *run, path string) error { return os.Chtimes(path, old, old) }},
	{"rename", func(r *run, path string) error {
		if err := os.Rename(path, path+"2"); err != nil {
			return err
		}
		return os.Rename(path+"2", path)
	}},
	{"link", func(r *run, path string) error { return os.Link(path, path+"2") }},
	{"chgrp", func(r *run, path string) error { return os.Chown(path, -1, os.Getegid()) }},
	{"chown to nobody", func(r *run, path string) error { return os.Chown(path, -1, -1) }},
	{"setxattr", func(r *run, path string) error { return unix.Setxattr(path, "user.x", []byte("y"), 0) }},
}

var privilegeCases = map[string]func(r *run){
	"an owner's change": func(r *run) {
		for _, what := range changesOfPrograms {
			name := "user/" + what.name
			r.as(1000, func() { r.do(name, what.do(r, r.path(name))) })
			r.stat(name)
			r.note("attributes", xattrs(r.path(name)))
		}
	},
	"root's change": func(r *run) {
		for _, what := range changesOfPrograms {
			name := "root/" + what.name
			r.do(name, what.do(r, r.path(name)))
			r.stat(name)
			r.note("attributes", xattrs(r.path(name)))
		}
	},
	"a stranger's change": func(r *run) {
		r.as(1001, func() {
			for _, what := range changesOfPrograms {
				name := "user/" + what.name
				r.do(name, what.do(r, r.path(name)))
				r.stat(name)
			}
		})
	},
	"capabilities of what has just been written": func(r *run) {
		f, err := os.Create(r.path("fresh"))
		r.do("create", err)
		_, err = f.WriteString("0123456789")
		r.do("write", err)
		r.do("capability", unix.Fsetxattr(int(f.Fd()), "security.capability", fileCaps(), 0))
		r.do("close", f.Close())
		r.stat("fresh")
		r.note("attributes", xattrs(r.path("fresh")))
	},
	"an inherited descriptor of another's program": func(r *run) {
		for _, how := range []string{"write", "fallocate"} {
			path := r.path("given-" + how)
			r.do("create", writeSync(path, os.O_CREATE, "0123456789"))
			r.do("chmod", unix.Chmod(path, 0o6755))
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			r.do("open", err)
			r.as(1001, func() {
				if how == "write" {
					_, err = f.Write([]byte("x"))
				} else {
					err = unix.Fallocate(int(f.Fd()), 0, 0, 5000)
				}
				r.do(how, err)
			})
			f.Close()
			r.stat("given-" + how)
		}
	},
	"trusted attributes are root's": func(r *run) {
		path := r.path("trusted")
		r.do("create", os.WriteFile(path, nil, 0o644))
		r.do("set", unix.Setxattr(path, "trusted.x", []byte("y"), 0))
		r.note("root sees", xattrs(path))
		r.as(1001, func() {
			// Not by its fsuid alone: this is about CAP_SYS_ADMIN.
			unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 1001, ^uintptr(0))
			defer unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0))
			r.note("another sees", xattrs(path))
		})
	},
	"sticky directory": func(r *run) {
		r.as(1000, func() {
			r.do("another's", os.Remove(r.path("sticky/b")))
			r.do("rename another's", os.Rename(r.path("sticky/b"), r.path("sticky/d")))
			r.do("rename over another's", os.Rename(r.path("sticky/a"), r.path("sticky/b")))
			r.do("exchange with another's", unix.Renameat2(unix.AT_FDCWD, r.path("sticky/a"), unix.AT_FDCWD, r.path("sticky/b"), unix.RENAME_EXCHANGE))
			r.do("rename one's own", os.Rename(r.path("sticky/a"), r.path("sticky/d")))
			r.do("one's own", os.Remove(r.path("sticky/d")))
			r.do("one's own directory", os.Remove(r.path("sticky/c")))
		})
		r.as(1001, func() {
			r.do("where one's own was not", os.Mkdir(r.path("sticky/a"), 0o755))
		})
		r.list("sticky")
	},
	"the group of a directory is inherited": func(r *run) {
		old := unix.Umask(0)
		defer unix.Umask(old)
		r.as(1001, func() {
			r.do("rm", os.Remove(r.path("sgid/gone")))
			for _, name := range []string{"gone", "new"} {
				fd, err := unix.Open(r.path("sgid/"+name), unix.O_CREAT|unix.O_WRONLY, 0o2775)
				r.do("create", err)
				unix.Close(fd)
			}
			r.do("mkdir", unix.Mkdir(r.path("sgid/dir"), 0o700))
			r.do("mkdir", unix.Mkdir(r.path("sgid/dir/deeper"), 0o2755))
			r.do("fifo", unix.Mkfifo(r.path("sgid/fifo"), 0o2770))
			r.do("symlink", os.Symlink("target", r.path("sgid/link")))
			fd, err := unix.Open(r.path("sgid"), unix.O_TMPFILE|unix.O_WRONLY, 0o2775)
			r.do("tmpfile", err)
			if err == nil {
				r.do("link", unix.Linkat(unix.AT_FDCWD, fdName(fd), unix.AT_FDCWD, r.path("sgid/tmp"), unix.AT_SYMLINK_FOLLOW))
				unix.Close(fd)
			}
		})
		for _, name := range []string{"gone", "new", "dir", "dir/deeper", "fifo", "link", "tmp"} {
			r.stat("sgid/" + name)
		}
	},
	"an ACL for who has access takes set-gid from who is not in the group": func(r *run) {
		for _, name := range []string{"system.posix_acl_default", "system.posix_acl_access"} {
			r.as(1000, func() { r.do(name, unix.Setxattr(r.path("sgid"), name, aclOf(5, 5), 0)) })
			r.stat("sgid")
		}
	},
	"ACLs rule": func(r *run) {
		for _, id := range []int{1001, 1002} {
			r.as(id, func() {
				r.read("acl/file")
				r.write("acl/file", os.O_WRONLY|os.O_APPEND, "more")
				r.write("acl/new", os.O_CREATE|os.O_WRONLY, "x")
				r.do("chmod", os.Chmod(r.path("acl/file"), 0o640))
				r.do("list", unix.Access(r.path("acl/sub"), unix.R_OK))
			})
		}
		r.do("chmod changes the mask", os.Chmod(r.path("acl/file"), 0o640))
		r.as(1001, func() { r.write("acl/file", os.O_WRONLY, "w") })
		r.note("ACL", xattrs(r.path("acl/file")))
	},
	"default ACLs are inherited": func(r *run) {
		old := unix.Umask(0o077)
		defer unix.Umask(old)
		r.write("acl/new", os.O_CREATE|os.O_WRONLY, "x")
		r.do("mkdir", unix.Mkdir(r.path("acl/dir"), 0o777))
		r.do("mkfifo", unix.Mkfifo(r.path("acl/fifo"), 0o666))
		r.do("rm", os.Remove(r.path("acl/sub")))
		r.do("mkdir over a whiteout", unix.Mkdir(r.path("acl/sub"), 0o777))
		r.write("acl/sub/deep", os.O_CREATE|os.O_WRONLY, "x")
		fd, err := unix.Open(r.path("acl"), unix.O_TMPFILE|unix.O_WRONLY, 0o666)
		r.do("tmpfile", err)
		if err == nil {
			r.do("link", unix.Linkat(unix.AT_FDCWD, fdName(fd), unix.AT_FDCWD, r.path("acl/tmp"), unix.AT_SYMLINK_FOLLOW))
			unix.Close(fd)
		}
		for _, name := range []string{"new", "dir", "fifo", "sub", "sub/deep", "tmp"} {
			r.stat("acl/" + name)
			r.note("ACL", xattrs(r.path("acl/"+name)))
		}
	},
	"searching without reading": func(r *run) {
		r.as(1000, func() {
			r.list("secret")
			r.stat("secret/x")
			r.read("secret/x")
			r.do("create", os.WriteFile(r.path("secret/new"), nil, 0o644))
		})
	},
}

func fdName(fd int) string { return fmt.Sprint("/proc/self/fd/", fd) }

func TestPrivileges(t *testing.T) {
	if os.Geteuid() != 0 || os.Getenv("PLASH_TEST_USER") == "one id" {
		t.Skip("it takes several users")
	}
	for name, ops := range privilegeCases {
		t.Run(name, func(t *testing.T) { compare(t, []layer{tree("top"), privileged}, ops) })
	}
}

// TestStrangersChown: chown(2) with -1 and -1, which everybody may call, takes
// nothing from a program that is another's.
func TestStrangersChown(t *testing.T) {
	if os.Geteuid() != 0 || os.Getenv("PLASH_TEST_USER") == "one id" {
		t.Skip("it takes several users")
	}
	for _, through := range []bool{false, true} {
		s := newStack(t, 1)
		fill(t, s.lowers[0], tree("sudo: program", "plain: text"))
		if err := unix.Chmod(filepath.Join(s.lowers[0], "sudo"), 0o4755); err != nil {
			t.Fatal(err)
		}
		s.change = func(c *serveConfig) { c.Serve.WriteThrough = through }
		s.mount()
		for name, want := range map[string]error{"sudo": unix.EPERM, "plain": nil} {
			fd, err := unix.Open(s.path(name), unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			err = as(1001, func(func(string) string) error { return unix.Fchownat(fd, "", -1, -1, unix.AT_EMPTY_PATH) })(nil)
			if err != want {
				t.Errorf("%s, written through %v: %v, not %v", name, through, err, want)
			}
			unix.Close(fd)
		}
		if info, err := os.Stat(s.path("sudo")); err != nil || info.Mode() != os.ModeSetuid|0o755 {
			t.Errorf("written through %v: %v, %v", through, info.Mode(), err)
		}
	}
}
