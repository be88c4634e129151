package tree

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"plash/internal/usertest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// otherFS returns a directory on another file system than t.TempDir's.
func otherFS(t *testing.T) string {
	t.Helper()
	var here, there unix.Stat_t
	must(t, unix.Stat(t.TempDir(), &here))
	if unix.Stat("/dev/shm", &there) != nil || here.Dev == there.Dev {
		t.Skip("there is no second file system to write to (/dev/shm)")
	}
	dir, err := os.MkdirTemp("/dev/shm", "tree")
	must(t, err)
	t.Cleanup(func() { must(t, Remove(dir)) })
	return dir
}

// makeDeep makes depth directories inside one another, far beyond PATH_MAX,
// with a file in the last one.
func makeDeep(t *testing.T, dir string, depth int) {
	t.Helper()
	fd, err := openDir(unix.AT_FDCWD, dir)
	must(t, err)
	name := strings.Repeat("d", 100)
	for range depth {
		must(t, unix.Mkdirat(fd, name, 0755))
		next, err := openBelow(fd, name)
		must(t, err)
		unix.Close(fd)
		fd = next
	}
	must(t, unix.Mknodat(fd, "bottom", unix.S_IFREG|0644, 0))
	unix.Close(fd)
}

// descriptors lowers the limit of open files for a test.
func descriptors(t *testing.T, n uint64) {
	t.Helper()
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: old.Max}))
	t.Cleanup(func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) })
}

func TestRemoveDeep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x")
	must(t, os.Mkdir(dir, 0755))
	makeDeep(t, dir, 2000)
	descriptors(t, 50)
	must(t, Remove(dir))
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestRemoveWhatIsClosedToItsOwner(t *testing.T) {
	dir := t.TempDir()
	usertest.WithRights(t, []string{dir}, func() {
		top := filepath.Join(dir, "top")
		must(t, os.MkdirAll(filepath.Join(top, "a/b"), 0755))
		must(t, os.WriteFile(filepath.Join(top, "a/b/f"), nil, 0))
		must(t, os.Chmod(filepath.Join(top, "a/b"), 0))
		must(t, os.Chmod(filepath.Join(top, "a"), 0500))
		must(t, os.Chmod(top, 0))
		must(t, Remove(top))
		if _, err := os.Lstat(top); !os.IsNotExist(err) {
			t.Errorf("it is still there: %v", err)
		}
	})
}

func TestRemoveFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/keep/this", 0755))
	must(t, os.Mkdir(dir+"/x", 0755))
	must(t, os.Symlink("../keep", dir+"/x/link"))
	must(t, Remove(dir+"/x"))
	must(t, Remove(dir+"/x")) // not there: no error
	if _, err := os.Lstat(dir + "/keep/this"); err != nil {
		t.Error(err)
	}
}

func TestRemoveStopsAtMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/outside/precious", 0755))
	must(t, os.MkdirAll(dir+"/x/mnt", 0755))
	must(t, os.WriteFile(dir+"/x/f", nil, 0644))
	must(t, unix.Mount(dir+"/outside", dir+"/x/mnt", "", unix.MS_BIND, ""))
	defer unix.Unmount(dir+"/x/mnt", 0)
	err := Remove(dir + "/x")
	if err == nil || !strings.HasPrefix(err.Error(), dir+"/x/mnt: ") {
		t.Errorf("the error is %v", err)
	}
	if _, err := os.Lstat(dir + "/outside/precious"); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir + "/x/f"); !os.IsNotExist(err) {
		t.Error("what could be removed was not")
	}
}

// describe lists all that Copy has to keep of a tree, one line a file.
func describe(t *testing.T, top string) map[string]string {
	t.Helper()
	lines := map[string]string{}
	first := map[uint64]string{}
	must(t, filepath.WalkDir(top, func(path string, _ os.DirEntry, err error) error {
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		name, _ := filepath.Rel(top, path)
		line := fmt.Sprintf("%o %d:%d rdev %d mtime %d", st.Mode, st.Uid, st.Gid, st.Rdev, st.Mtim.Nano())
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			must(t, err)
			line += " -> " + target
		case unix.S_IFREG:
			f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOATIME, 0)
			must(t, err)
			text, err := io.ReadAll(f)
			must(t, err)
			f.Close()
			// Of the others, listing them here changes it.
			line += fmt.Sprintf(" atime %d size %d %x", st.Atim.Nano(), st.Size, bytes.TrimRight(text[:min(len(text), 100)], "\x00"))
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if _, ok := first[st.Ino]; !ok {
				first[st.Ino] = name
			}
			line += fmt.Sprintf(" %d links, first %s", st.Nlink, first[st.Ino])
		}
		buf := make([]byte, 4096)
		n, err := unix.Llistxattr(path, buf)
		must(t, err)
		names := strings.Split(string(buf[:n]), "\x00")
		slices.Sort(names)
		for _, x := range names {
			if x != "" {
				n, err := unix.Lgetxattr(path, x, buf)
				must(t, err)
				line += fmt.Sprintf(" %s=%x", x, buf[:n])
			}
		}
		lines[name] = line
		return nil
	}))
	return lines
}

func TestCopyKeepsAll(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("owners, devices and trusted attributes need root")
	}
	dir := t.TempDir()
	src := dir + "/src"
	at := func(name string) string { return src + "/" + name }
	xattr := func(name, x, value string) {
		t.Helper()
		must(t, unix.Lsetxattr(at(name), x, []byte(value), 0))
	}
	must(t, os.Mkdir(src, 0711))
	must(t, os.WriteFile(at("f"), []byte("text"), 0600))
	must(t, os.WriteFile(at("empty"), nil, 0400))
	xattr("f", "user.note", "n")
	must(t, os.Link(at("f"), at("hard")))
	must(t, os.MkdirAll(at("d/e"), 0700))
	must(t, os.Link(at("f"), at("d/e/hard")))
	must(t, os.Symlink("../nowhere", at("d/link")))
	must(t, os.Lchown(at("d/link"), 1, 2))
	xattr("d/link", "trusted.overlay.plash.x", "on a link")
	must(t, unix.Mknod(at("whiteout"), unix.S_IFCHR, 0))
	must(t, os.Link(at("whiteout"), at("d/whiteout")))
	must(t, unix.Mknod(at("null"), unix.S_IFCHR|0666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mkfifo(at("fifo"), 0640))
	must(t, unix.Mknod(at("sock"), unix.S_IFSOCK|0755, 0))
	xattr("d", "user.overlay.opaque", "y")
	xattr("d", "trusted.overlay.opaque", "y")
	must(t, os.WriteFile(at("suid"), []byte("#!"), 0755))
	must(t, os.Chown(at("suid"), 1, 1))
	must(t, unix.Chmod(at("suid"), 06755))
	must(t, os.WriteFile(at("cap"), nil, 0755))
	must(t, os.Chown(at("cap"), 7, 8))
	xattr("cap", "security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	must(t, os.WriteFile(at("acl"), nil, 0640))
	acl := "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x06\x00\x05\x00\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x06\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"
	xattr("acl", "system.posix_acl_access", acl)
	xattr("d/e", "system.posix_acl_default", acl)
	must(t, os.Mkdir(at("closed"), 0))
	must(t, os.Mkdir(at("sticky"), 0))
	must(t, unix.Chmod(at("sticky"), 01777))
	f, err := os.Create(at("sparse"))
	must(t, err)
	_, err = f.WriteAt([]byte("middle"), 64<<20)
	must(t, err)
	must(t, f.Truncate(96<<20))
	must(t, f.Close())
	when := time.Unix(1e9, 123456789)
	for _, name := range []string{"f", "null", "d/e", "d", "d/link", "."} {
		ts := []unix.Timespec{{Sec: when.Unix(), Nsec: 987654321}, {Sec: when.Unix(), Nsec: 123456789}}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, at(name), ts, unix.AT_SYMLINK_NOFOLLOW))
	}

	want := describe(t, src)
	dst := otherFS(t) + "/dst"
	must(t, Copy(src, dst))
	got := describe(t, dst)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%s:\n got %s\nwant %s", name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files became %d", len(want), len(got))
	}
	var st unix.Stat_t
	must(t, unix.Stat(dst+"/sparse", &st))
	if st.Blocks*512 > 1<<20 {
		t.Errorf("the sparse file takes %d bytes", st.Blocks*512)
	}
	if left, _ := filepath.Glob(filepath.Dir(dst) + "/links*"); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func TestCopyDeep(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/src", 0755))
	makeDeep(t, dir+"/src", 300)
	descriptors(t, 50)
	must(t, Copy(dir+"/src", dir+"/dst"))
	fd, err := openDir(unix.AT_FDCWD, dir+"/dst")
	must(t, err)
	for range 300 {
		next, err := openBelow(fd, strings.Repeat("d", 100))
		must(t, err)
		unix.Close(fd)
		fd = next
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	must(t, unix.Fstatat(fd, "bottom", &st, 0))
	must(t, Remove(dir+"/src"))
	must(t, Remove(dir+"/dst"))
}

func TestCopySaysWhatItCouldNot(t *testing.T) {
	dir := t.TempDir()
	usertest.WithRights(t, []string{dir}, func() {
		must(t, os.MkdirAll(dir+"/src/d", 0755))
		must(t, os.WriteFile(dir+"/src/d/secret", nil, 0))
		err := Copy(dir+"/src", dir+"/dst")
		if err == nil || err.Error() != dir+"/src/d/secret: Permission denied" {
			t.Errorf("the error is %v", err)
		}
	})
}

// TestUsage: what du says.
func TestUsage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	must(t, os.MkdirAll(dir+"/a/b", 0o755))
	must(t, os.WriteFile(dir+"/a/file", make([]byte, 100_000), 0o644))
	must(t, os.Link(dir+"/a/file", dir+"/a/b/link"))
	must(t, os.WriteFile(dir+"/hole", nil, 0o644))
	must(t, os.Truncate(dir+"/hole", 1<<30))
	must(t, os.Symlink("/usr", dir+"/symlink"))
	out, err := exec.Command("du", "-s", "--block-size=1", dir).Output()
	must(t, err)
	want, _, _ := strings.Cut(string(out), "\t")
	if got, err := Usage(dir); strconv.FormatInt(got, 10) != want || err != nil {
		t.Errorf("%d, %v; du says %s", got, err, want)
	}
	if _, err := Usage(dir + "/none/x"); err == nil {
		t.Error("no error for a directory that is not there")
	}
	makeDeep(t, dir, 3000)
	if _, err := Usage(dir); err != nil {
		t.Error(err)
	}
	must(t, Remove(dir))
}
