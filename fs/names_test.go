package fs_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Names and paths at their limits, links that lead in circles, and trees that
// nobody may change.

var nameCases = map[string]func(r *run){
	"names that are too long": func(r *run) {
		outcomes := map[string]error{}
		for what, do := range map[string]func(name string) error{
			"lookup":  func(name string) error { return unix.Access(r.path("dir/"+name), 0) },
			"create":  func(name string) error { return writeSync(r.path("dir/"+name), os.O_CREATE|os.O_EXCL, "") },
			"mkdir":   func(name string) error { return os.Mkdir(r.path("dir/"+name), 0o755) },
			"fifo":    func(name string) error { return unix.Mkfifo(r.path("dir/"+name), 0o644) },
			"symlink": func(name string) error { return os.Symlink("x", r.path("dir/"+name)) },
			"link":    func(name string) error { return os.Link(r.path("file"), r.path("dir/"+name)) },
			"rename":  func(name string) error { return os.Rename(r.path("top"), r.path("dir/"+name)) },
			"unlink":  func(name string) error { return unix.Unlink(r.path("dir/" + name)) },
			"rmdir":   func(name string) error { return unix.Rmdir(r.path("dir/" + name)) },
			"setxattr": func(name string) error {
				return unix.Setxattr(r.path("file"), "user."+name, nil, 0)
			},
		} {
			outcomes[what] = do(tooLong)
		}
		r.outcomes(outcomes)
		r.do("the longest", os.Mkdir(r.path("dir/"+longest), 0o755))
		r.do("rename to the longest", os.Rename(r.path("file"), r.path("dir/"+longest+"/"+longest)))
		r.do("unlink the longest", unix.Unlink(r.path("dir/"+longest+"/"+longest)))
		r.do("a target as long as can be", os.Symlink(strings.Repeat("t", unix.PathMax-1), r.path("long")))
		target, err := os.Readlink(r.path("long"))
		r.do("readlink", err)
		r.note("target", len(target))
		r.do("a longer target", os.Symlink(strings.Repeat("t", unix.PathMax), r.path("longer")))
	},
	"links that lead in circles": func(r *run) {
		r.do("symlink", os.Symlink("circle2", r.path("circle1")))
		r.do("symlink", os.Symlink("circle1", r.path("circle2")))
		r.do("symlink", os.Symlink("self/x", r.path("self")))
		// Forty links are followed, not one more. The kernel counts on where it begins a
		// path anew, as it does when something is mounted anywhere in between: so a chain
		// that must be followed has no more than twenty.
		last := "file"
		for i := range 42 {
			name := fmt.Sprint("hop", i)
			os.Symlink(last, r.path(name))
			last = name
		}
		for _, name := range []string{"circle1", "self", "self/y", "hop19", "hop40", "hop41", "lowcircle"} {
			r.do("stat "+name, unix.Access(r.path(name), 0))
			r.read(name)
			r.do("create in "+name, os.Mkdir(r.path(name+"/new"), 0o755))
			r.do("chmod", unix.Chmod(r.path(name), 0o640))
		}
		fd, err := unix.Open(r.path("link"), unix.O_RDONLY|unix.O_NOFOLLOW, 0)
		r.do("a link that is not to be followed", err)
		unix.Close(fd)
		_, err = os.Stat(r.path("dangling"))
		r.do("stat", err)
		r.write("dangling", os.O_CREATE|os.O_WRONLY, "through a link")
		r.read("nowhere")
	},
	"directories in which all is whited out": func(r *run) {
		r.list("white")
		r.do("rmdir of a lower one", unix.Rmdir(r.path("white")))
		r.do("rm", os.Remove(r.path("d2/x")))
		r.do("rm", os.Remove(r.path("d2/y")))
		r.do("rmdir of one with another name", unix.Rmdir(r.path("d2")))
		r.do("rm", os.Remove(r.path("d2/!")))
		r.do("rmdir of an emptied one", unix.Rmdir(r.path("d2")))
		r.do("mkdir", os.Mkdir(r.path("d2"), 0o755))
		r.list("d2")
		r.do("rm", os.Remove(r.path("dir/sub/deep/x")))
		r.do("rename over an emptied one", os.Rename(r.path("empty"), r.path("dir/sub/deep")))
		r.do("mkdir", os.Mkdir(r.path("full"), 0o755))
		r.do("rename over a full one", unix.Rename(r.path("full"), r.path("dir")))
		r.do("rename over a file", unix.Rename(r.path("full"), r.path("file")))
		r.do("rename a file over a directory", unix.Rename(r.path("file"), r.path("full")))
	},
	"errors of paths": func(r *run) {
		r.outcomes(map[string]error{
			"through a file":             unix.Access(r.path("file/x"), 0),
			"mkdir through a file":       os.Mkdir(r.path("file/x"), 0o755),
			"unlink through a whiteout":  unix.Unlink(r.path("gone/x")),
			"a file with a slash":        unix.Access(r.path("file/"), 0),
			"mkdir of the root":          os.Mkdir(r.mnt, 0o755),
			"rmdir of .":                 unix.Rmdir(r.path("dir") + "/."),
			"rmdir of ..":                unix.Rmdir(r.path("dir/sub") + "/.."),
			"rename of .":                unix.Rename(r.path("dir")+"/.", r.path("x")),
			"link to a directory":        os.Link(r.path("dir"), r.path("x")),
			"rename into itself":         unix.Rename(r.path("empty"), r.path("empty/x")),
			"rename to where it is":      unix.Rename(r.path("file"), r.path("file")),
			"rename out of the mount":    unix.Rename(r.path("file"), filepath.Join(filepath.Dir(r.mnt), "x")),
			"link out of the mount":      unix.Link(r.path("file"), filepath.Join(filepath.Dir(r.mnt), "x")),
			"rename with unknown flags":  unix.Renameat2(unix.AT_FDCWD, r.path("file"), unix.AT_FDCWD, r.path("x"), 1<<20),
			"rename with a whiteout":     unix.Renameat2(unix.AT_FDCWD, r.path("file"), unix.AT_FDCWD, r.path("x"), unix.RENAME_WHITEOUT),
			"an empty name":              unix.Access("", 0),
			"readlink of a file":         second(unix.Readlink(r.path("file"), make([]byte, 10))),
			"truncate of a directory":    unix.Truncate(r.path("dir"), 0),
			"truncate of a fifo":         unix.Truncate(r.path("fifo"), 0),
			"truncate to less than none": unix.Truncate(r.path("file"), -1),
			"open a directory to write":  opened(unix.Open(r.path("dir"), unix.O_WRONLY, 0)),
			"open a file as directory":   opened(unix.Open(r.path("file"), unix.O_DIRECTORY, 0)),
			"open a socket":              opened(unix.Open(r.path("sock"), unix.O_RDONLY, 0)),
			"rmdir of the root":          unix.Rmdir(r.mnt),
		})
	},
}

// outcomes notes what came of several operations.
func (r *run) outcomes(all map[string]error) {
	for _, what := range slices.Sorted(maps.Keys(all)) {
		r.do(what, all[what])
	}
}

func second[T any](_ T, err error) error { return err }

func opened(fd int, err error) error {
	unix.Close(fd)
	return err
}

func TestNames(t *testing.T) {
	lower := func(t *testing.T, dir string) {
		base[1](t, dir)
		tree("lowcircle -> lowcircle", "white/a", "white/b/c")(t, dir)
	}
	middle := tree("white/!a", "white/!b")
	for name, ops := range nameCases {
		t.Run(name, func(t *testing.T) { compare(t, []layer{base[0], middle, lower}, ops) })
	}
}

// TestDeepPaths: a tree that is deeper than a path can be long is read, changed,
// renamed and removed as any other.
func TestDeepPaths(t *testing.T) {
	s := newStack(t, 1)
	const depth, name = 60, 100
	step := strings.Repeat("d", name)
	// down opens the directory at that depth; mk makes what is missing.
	down := func(root string, mk bool, depth int) int {
		t.Helper()
		fd, err := unix.Open(root, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		for range depth {
			if err == nil && mk {
				err = unix.Mkdirat(fd, step, 0o755)
			}
			if err != nil {
				t.Fatal(err)
			}
			up := fd
			fd, err = unix.Openat(up, step, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			unix.Close(up)
		}
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	put := func(dir int, name, text string) {
		t.Helper()
		fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_WRONLY|unix.O_APPEND, 0o644)
		if err == nil {
			_, err = unix.Write(fd, []byte(text))
			unix.Close(fd)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	get := func(dir int, name string) string {
		fd, err := unix.Openat(dir, name, unix.O_RDONLY, 0)
		if err != nil {
			return err.Error()
		}
		defer unix.Close(fd)
		buf := make([]byte, 100)
		n, _ := unix.Read(fd, buf)
		return string(buf[:n])
	}
	low := down(s.lowers[0], true, depth)
	put(low, "file", "low")
	put(low, "gone", "low")
	unix.Close(low)
	s.mount()
	deep := down(s.mnt, false, depth)
	put(deep, "file", " and more")
	put(deep, "new", "made")
	for _, err := range []error{
		unix.Unlinkat(deep, "gone", 0), unix.Mkdirat(deep, "dir", 0o755), unix.Renameat(deep, "new", deep, "dir/moved"),
		unix.Fchmodat(deep, "file", 0o600, 0),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	unix.Close(deep)
	check := func(when string, depth int) {
		t.Helper()
		deep := down(s.mnt, false, depth)
		defer unix.Close(deep)
		if a, b, c := get(deep, "file"), get(deep, "dir/moved"), get(deep, "gone"); a != "low and more" || b != "made" || c != unix.ENOENT.Error() {
			t.Errorf("%s: %q, %q, %q", when, a, b, c)
		}
	}
	check("at once", depth)
	s.remount()
	check("after a remount", depth)
	// A directory in the middle, with all that is below it.
	middle := down(s.mnt, false, 30)
	if err := unix.Renameat(middle, step, middle, "renamed"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Renameat(middle, "renamed", middle, step); err != nil {
		t.Fatal(err)
	}
	unix.Close(middle)
	check("after a rename", depth)
	s.remount()
	check("after one more remount", depth)
	if err := os.RemoveAll(filepath.Join(s.mnt, step)); err != nil {
		t.Error(err)
	}
	if got := names(t, s.mnt); got != "" {
		t.Errorf("left: %.200s", got)
	}
}

// TestReadOnly: without an upper directory every change is refused.
func TestReadOnly(t *testing.T) {
	s, k := newStack(t, 2), newStack(t, 2)
	logs := [2][]string{}
	for i, s := range []*stack{s, k} {
		s.upper = ""
		for i, l := range base {
			fill(t, s.lowers[i], l)
			setTimes(t, s.lowers[i])
		}
		if i == 0 {
			s.mount()
		} else if err := unix.Mount("overlay", s.mnt, "overlay", 0, "userxattr,lowerdir="+strings.Join(s.lowers, ":")); err != nil {
			t.Skipf("kernel overlayfs cannot be mounted here: %v", err)
		} else {
			t.Cleanup(func() { unix.Unmount(s.mnt, unix.MNT_DETACH) })
		}
		r := &run{t: t, mnt: s.mnt}
		r.outcomes(map[string]error{
			"write":             opened(unix.Open(r.path("file"), unix.O_RDWR, 0)),
			"truncate":          unix.Truncate(r.path("file"), 0),
			"create":            opened(unix.Open(r.path("new"), unix.O_CREAT|unix.O_WRONLY, 0o644)),
			"open or create":    opened(unix.Open(r.path("file"), unix.O_CREAT|unix.O_RDONLY, 0o644)),
			"create again":      opened(unix.Open(r.path("file"), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)),
			"tmpfile":           opened(unix.Open(r.path("dir"), unix.O_TMPFILE|unix.O_RDWR, 0o644)),
			"mkdir":             os.Mkdir(r.path("new"), 0o755),
			"mkdir again":       os.Mkdir(r.path("dir"), 0o755),
			"mkfifo":            unix.Mkfifo(r.path("new"), 0o755),
			"symlink":           unix.Symlink("x", r.path("new")),
			"link":              unix.Link(r.path("file"), r.path("new")),
			"unlink":            unix.Unlink(r.path("file")),
			"unlink of nothing": unix.Unlink(r.path("nothing")),
			"rmdir":             unix.Rmdir(r.path("empty")),
			"rename":            unix.Rename(r.path("file"), r.path("new")),
			"chmod":             unix.Chmod(r.path("file"), 0o600),
			"chown":             unix.Lchown(r.path("link"), 0, 0),
			"utimes":            os.Chtimes(r.path("file"), old, old),
			"setxattr":          unix.Setxattr(r.path("file"), "user.x", nil, 0),
			"may write":         unix.Access(r.path("file"), unix.W_OK),
			"may read":          unix.Access(r.path("file"), unix.R_OK),
			"a fifo's data":     opened(unix.Open(r.path("fifo"), unix.O_RDWR|unix.O_NONBLOCK, 0)),
			"removexattr":       unix.Removexattr(r.path("file"), "user.color"),
		})
		logs[i] = append(r.log, dump(t, s.mnt)...)
	}
	diff(t, "the outcome", logs[1], logs[0])
}

// TestListingEnds: who changes each name that a listing gives comes to its end, and meets
// all that was there.
func TestListingEnds(t *testing.T) {
	for what, change := range map[string]func(path string) error{
		"renamed and back": func(p string) error {
			return errors.Join(os.Rename(p, p+".tmp"), os.Rename(p+".tmp", p))
		},
		"replaced":        func(p string) error { return errors.Join(os.WriteFile(p+".tmp", nil, 0o644), os.Rename(p+".tmp", p)) },
		"renamed":         func(p string) error { return os.Rename(p, p+".new") },
		"given a sibling": func(p string) error { return os.WriteFile(p+".new", nil, 0o644) },
	} {
		s := newStack(t, 2)
		const files = 3000
		for i := range files {
			dir := s.upper
			if i < files/2 {
				dir = s.lowers[i%2]
			}
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		s.mount()
		dir, err := os.Open(s.mnt)
		if err != nil {
			t.Fatal(err)
		}
		met, all := map[string]bool{}, 0
		for {
			names, err := dir.Readdirnames(10)
			if err == io.EOF {
				break
			}
			if all += len(names); err != nil || all > 3*files {
				t.Fatalf("%s: after %d names: %v", what, all, err)
			}
			for _, name := range names {
				met[name] = true
				if err := change(s.path(name)); err != nil {
					t.Fatal(err)
				}
			}
		}
		dir.Close()
		for i := range files {
			if !met[fmt.Sprint(i)] {
				t.Errorf("%s: %d was not met", what, i)
			}
		}
		s.unmount()
	}
}
