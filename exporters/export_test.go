package exporters

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"plash/importers"
	"plash/union"
)

// needRoot skips the test unless it runs as root outside of user namespaces.
func needRoot(t testing.TB) {
	ids, err := os.ReadFile("/proc/self/uid_map")
	if err != nil || os.Getuid() != 0 || strings.Join(strings.Fields(string(ids)), " ") != "0 0 4294967295" {
		t.Skip("needs root")
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, content string, elem ...string) string {
	t.Helper()
	path := filepath.Join(elem...)
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

// A list: owner rwx, user 1000 r--, group r-x, mask rwx, others nothing.
const acl = "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" +
	"\x04\x00\x05\x00\xff\xff\xff\xff" + "\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"

const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// layers makes two layers that have everything in them that root can make; the
// upper one changes the lower.
func layers(t testing.TB) *union.Union {
	low, up := filepath.Join(t.TempDir(), "low"), filepath.Join(t.TempDir(), "up")
	write(t, "gone", low, "gone")
	write(t, "hidden", low, "o/hidden")
	write(t, "old", low, "d/changed")
	write(t, "", low, "d/empty")
	f := write(t, "content", low, "d/f")
	must(t, os.Link(f, filepath.Join(low, "d/hard")))
	must(t, os.Link(f, filepath.Join(low, "a hard one")))
	must(t, unix.Setxattr(f, "user.x", []byte("a\x00b\n"), 0))
	must(t, unix.Setxattr(f, "user.empty", nil, 0))
	must(t, unix.Setxattr(f, "user.a=b%3D", []byte("1"), 0))
	must(t, os.Symlink("../nowhere/"+strings.Repeat("t", 150), filepath.Join(low, "d/link")))
	must(t, unix.Mkfifo(filepath.Join(low, "d/fifo"), 0o620))
	must(t, unix.Mknod(filepath.Join(low, "d/sock"), unix.S_IFSOCK|0o755, 0))
	write(t, "", low, "d/\xff not UTF-8\n")
	write(t, "long", low, strings.Repeat("n", 200), strings.Repeat("m", 200), "f")
	deep := low
	for len(deep) < len(low)+3000 {
		deep += "/" + strings.Repeat("d", 99)
	}
	write(t, "deep", deep, "f")

	s, err := os.Create(filepath.Join(low, "sparse"))
	must(t, err)
	s.WriteAt([]byte("begin"), 0)
	s.WriteAt([]byte("middle"), 20<<20)
	must(t, s.Truncate(64<<20))
	s.Close()
	h, err := os.Create(filepath.Join(low, strings.Repeat("h", 120)))
	must(t, err)
	must(t, h.Truncate(1<<20+1))
	h.Close()

	write(t, "new", up, "d/changed")
	write(t, "shown", up, "o/shown")
	must(t, unix.Setxattr(filepath.Join(up, "o"), "user.overlay.opaque", []byte("y"), 0))
	must(t, unix.Setxattr(filepath.Join(up, "o"), "user.overlay.overlay.opaque", []byte("nested"), 0))
	must(t, unix.Mknod(filepath.Join(up, "gone"), unix.S_IFCHR, 0))
	must(t, unix.Mknod(filepath.Join(up, "d/block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 100000))))
	must(t, os.Lchown(f, 3000000, 70))
	must(t, os.Lchown(filepath.Join(low, "d/link"), 5, 6))
	must(t, unix.Lsetxattr(filepath.Join(low, "d/link"), "trusted.onlink", []byte("1"), 0))
	must(t, unix.Setxattr(f, "security.capability", []byte(capability), 0))
	must(t, unix.Setxattr(filepath.Join(up, "o/shown"), "system.posix_acl_access", []byte(acl), 0))
	must(t, unix.Setxattr(filepath.Join(up, "d"), "system.posix_acl_default", []byte(acl), 0))
	must(t, os.Chmod(filepath.Join(up, "d"), os.ModeSticky|os.ModeSetgid|0o771))
	must(t, unix.Chmod(filepath.Join(low, "d/empty"), 0o6751))
	must(t, os.Chmod(up, 0o751))
	for i, dir := range []string{low, up} {
		filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			must(t, err)
			ts := unix.Timespec{Sec: 1234567890 + int64(i), Nsec: 987654321}
			if strings.HasSuffix(path, "d/changed") {
				ts = unix.Timespec{Sec: -2, Nsec: 250000000}
			}
			return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
		})
	}
	u, err := union.New(union.Config{Lowers: []union.Layer{{Path: up}, {Path: low}}})
	must(t, err)
	t.Cleanup(func() { u.Close() })
	return u
}

// snapshot describes everything below dir, a line a file.
func snapshot(t testing.TB, dir string) string {
	t.Helper()
	var lines []string
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		rel, _ := filepath.Rel(dir, path)
		line := fmt.Sprintf("%q %o %d:%d dev %d:%d mtime %d.%09d", rel, st.Mode, st.Uid, st.Gid,
			unix.Major(st.Rdev), unix.Minor(st.Rdev), st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			f, err := os.Open(path)
			must(t, err)
			sum := sha256.New()
			io.Copy(sum, f)
			f.Close()
			line += fmt.Sprintf(" size %d sum %x sparse %v", st.Size, sum.Sum(nil)[:8], st.Blocks*512 < st.Size)
		case unix.S_IFLNK:
			target, _ := os.Readlink(path)
			line += " -> " + target
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if first[st.Ino] == "" {
				first[st.Ino] = rel
			}
			line += fmt.Sprintf(" %d links, %q", st.Nlink, first[st.Ino])
		}
		buf := make([]byte, 65536)
		n, err := unix.Llistxattr(path, buf)
		must(t, err)
		names := strings.Fields(strings.ReplaceAll(string(buf[:n]), "\x00", " "))
		sort.Strings(names)
		for _, name := range names {
			value := make([]byte, 1000)
			n, err := unix.Lgetxattr(path, name, value)
			must(t, err)
			line += fmt.Sprintf(" %s=%q", name, value[:n])
		}
		lines = append(lines, line)
		return nil
	})
	must(t, err)
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

func differ(t *testing.T, what, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for _, line := range g {
		if !strings.Contains("\n"+want+"\n", "\n"+line+"\n") {
			t.Errorf("%s: unexpected %s", what, line)
		}
	}
	for _, line := range w {
		if !strings.Contains("\n"+got+"\n", "\n"+line+"\n") {
			t.Errorf("%s: missing %s", what, line)
		}
	}
}

func withoutSockets(s string) string {
	var kept []string
	for _, line := range strings.Split(s, "\n") {
		if !strings.Contains(line, " 140755 ") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

// What push:dir writes is the merged tree, and what push:tarfile writes gives
// the same when it is unpacked, by us and by GNU tar.
func TestRoundTrip(t *testing.T) {
	needRoot(t)
	u := layers(t)
	dir := filepath.Join(t.TempDir(), "dir")
	must(t, Dir(u, dir))
	want := snapshot(t, dir)
	for _, line := range []string{
		`"." 40751 0:0 dev 0:0 mtime 1234567891.987654321`,
		`"a hard one" 100644 3000000:70 dev 0:0 mtime 1234567890.987654321 size 7 sum ed7002b439e9ac84 sparse false 3 links, "a hard one"` +
			` security.capability="\x01\x00\x00\x02\x00 \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" user.a=b%3D="1" user.empty="" user.x="a\x00b\n"`,
		`"d" 43771 0:0 dev 0:0 mtime 1234567891.987654321 system.posix_acl_default="\x02\x00\x00\x00` +
			`\x01\x00\a\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\a\x00\xff\xff\xff\xff \x00\x00\x00\xff\xff\xff\xff"`,
		`"d/block" 60640 0:0 dev 259:100000 mtime 1234567891.987654321`,
		`"d/empty" 106751 0:0 dev 0:0 mtime 1234567890.987654321 size 0 sum e3b0c44298fc1c14 sparse false`,
		`"d/fifo" 10600 0:0 dev 0:0 mtime 1234567890.987654321`,
		`"d/link" 120777 5:6 dev 0:0 mtime 1234567890.987654321 -> ../nowhere/` + strings.Repeat("t", 150) + ` trusted.onlink="1"`,
		`"d/sock" 140755 0:0 dev 0:0 mtime 1234567890.987654321`,
		`"d/changed" 100644 0:0 dev 0:0 mtime -2.250000000 size 3 sum 11507a0e2f5e69d5 sparse false`,
		`"o" 40755 0:0 dev 0:0 mtime 1234567891.987654321 user.overlay.opaque="nested"`,
	} {
		if !strings.Contains("\n"+want+"\n", "\n"+line+"\n") {
			t.Errorf("push:dir lacks %s", line)
		}
	}
	for _, name := range []string{`"gone"`, `"o/hidden"`} {
		if strings.Contains(want, name) {
			t.Errorf("%s should be hidden", name)
		}
	}

	var one, two bytes.Buffer
	must(t, Tar(u, &one))
	must(t, Tar(u, &two))
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("two archives of one tree differ")
	}
	if one.Len() > 2<<20 {
		t.Errorf("holes were written: %d bytes", one.Len())
	}
	for r := tar.NewReader(bytes.NewReader(one.Bytes())); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		if !strings.HasPrefix(h.Name, "./") {
			t.Errorf("a member named %q", h.Name)
		}
	}

	back := filepath.Join(t.TempDir(), "back")
	must(t, os.Mkdir(back, 0o700))
	var notices strings.Builder
	must(t, importers.Unpack(bytes.NewReader(one.Bytes()), back, importers.UnpackOptions{Notices: &notices}))
	want = withoutSockets(want)
	got := strings.ReplaceAll(snapshot(t, back), "user.overlay.overlay.opaque", "user.overlay.opaque")
	differ(t, "unpacked", got, want)
	if notices.Len() > 0 {
		t.Error(notices.String())
	}

	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip(err)
	}
	gnu := filepath.Join(t.TempDir(), "gnu")
	must(t, os.Mkdir(gnu, 0o700))
	cmd := exec.Command("tar", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-p", "-C", gnu, "-x")
	cmd.Stdin = &one
	if out, err := cmd.CombinedOutput(); err != nil { // it warns of a time before 1970
		t.Errorf("tar: %v %s", err, out)
	}
	differ(t, "unpacked by tar", snapshot(t, gnu), want)
}

func TestTarfile(t *testing.T) {
	low := t.TempDir()
	write(t, "content", low, "f")
	u, err := union.New(union.Config{Lowers: []union.Layer{{Path: low}}})
	must(t, err)
	defer u.Close()
	var want bytes.Buffer
	must(t, Tarfile(u, "-", &want))
	dir := t.TempDir()
	check := func(path string) {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
	}
	old := unix.Umask(0o027)
	defer unix.Umask(old)
	file := filepath.Join(dir, "new.tar")
	must(t, Tarfile(u, file, nil))
	check(file)
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o640 {
		t.Error(info.Mode(), err)
	}
	existing := write(t, strings.Repeat("long", 1<<20), dir, "existing.tar")
	must(t, os.Chmod(existing, 0o600))
	link := filepath.Join(dir, "link.tar")
	must(t, os.Symlink("existing.tar", link))
	must(t, Tarfile(u, link, nil))
	check(existing)
	if info, err := os.Lstat(existing); err != nil || info.Mode() != 0o600 {
		t.Error(info.Mode(), err)
	}
	if _, err := os.Readlink(link); err != nil {
		t.Error(err)
	}
	must(t, Tarfile(u, "/dev/null", nil))
	if info, err := os.Stat("/dev/null"); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		t.Fatal("/dev/null is gone")
	}
	if err := Tarfile(u, dir, nil); err == nil || err.Error() != dir+": Is a directory" {
		t.Error(err)
	}
	missing := filepath.Join(dir, "missing/x.tar")
	if err := Tarfile(u, missing, nil); err == nil || err.Error() != missing+": No such file or directory" {
		t.Error(err)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, ".*")); len(names) > 0 {
		t.Errorf("left: %v", names)
	}
	if err := Tarfile(u, "", brokenPipe{}); err == nil || err.Error() != "standard output: Broken pipe" {
		t.Error(err)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, unix.EPIPE }

func TestFailureLeavesNothing(t *testing.T) {
	needRoot(t)
	low := t.TempDir()
	write(t, strings.Repeat("x", 4<<20), low, "big/file")
	u, err := union.New(union.Config{Lowers: []union.Layer{{Path: low}}})
	must(t, err)
	defer u.Close()
	disk := t.TempDir()
	if err := unix.Mount("none", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip(err)
	}
	defer unix.Unmount(disk, unix.MNT_DETACH)
	kept := write(t, "kept", disk, "kept.tar")
	for _, name := range []string{"new.tar", "kept.tar"} {
		if err := Tarfile(u, filepath.Join(disk, name), nil); err == nil || err.Error() != filepath.Join(disk, name)+": No space left on device" {
			t.Error(err)
		}
	}
	dir := filepath.Join(disk, "dir")
	want := dir + "/big/file: No space left on device"
	if err := Dir(u, dir); err == nil || err.Error() != want {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("the directory was left")
	}
	must(t, os.Mkdir(dir, 0o711))
	if err := Dir(u, dir); err == nil || err.Error() != want {
		t.Error(err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Error(names, err)
	}
	if got, _ := os.ReadFile(kept); string(got) != "kept" {
		t.Errorf("kept.tar: %q", got)
	}
	if names, _ := os.ReadDir(disk); len(names) != 2 {
		t.Errorf("left: %v", names)
	}
}

func TestDirRefused(t *testing.T) {
	u := layersOf(t, false, t.TempDir())
	dir := t.TempDir()
	f := write(t, "x", dir, "f")
	if err := Dir(u, dir); err == nil || err.Error() != dir+": Directory not empty" {
		t.Error(err)
	}
	if err := Dir(u, f); err == nil || err.Error() != f+": Not a directory" {
		t.Error(err)
	}
	if err := Dir(u, dir+"/a/b"); err == nil || err.Error() != dir+"/a/b: No such file or directory" {
		t.Error(err)
	}
}

func layersOf(t testing.TB, live bool, dirs ...string) *union.Union {
	var c union.Config
	for _, d := range dirs {
		c.Lowers = append(c.Lowers, union.Layer{Path: d, Live: live})
	}
	u, err := union.New(c)
	must(t, err)
	t.Cleanup(func() { u.Close() })
	return u
}

// The target may lie in the tree that is exported, when that is the host.
func TestTargetInLiveTree(t *testing.T) {
	low := t.TempDir()
	write(t, "a", low, "a")
	write(t, "b", low, "home/b")
	dir := filepath.Join(low, "home/dir")
	must(t, Dir(layersOf(t, true, low), dir))
	if names, err := os.ReadDir(filepath.Join(dir, "home/dir")); err != nil || len(names) != 0 {
		t.Error(names, err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "home/b")); string(got) != "b" {
		t.Error(err)
	}
	if names, _ := os.ReadDir(dir); len(names) != 2 {
		t.Error(names)
	}
	must(t, os.RemoveAll(dir))

	out, err := os.Create(filepath.Join(low, "home/out.tar"))
	must(t, err)
	defer out.Close()
	must(t, Tar(layersOf(t, true, low), out))
	archive, err := os.ReadFile(out.Name())
	must(t, err)
	if bytes.Contains(archive, []byte("out.tar")) {
		t.Error("the archive has itself in it")
	}
}

// insideUser is set when the test binary runs as an ordinary user.
const insideUser = "PLASH_TEST_INSIDE_USER"

// A file that may not be read is an error that names it, never left out.
func TestUnreadable(t *testing.T) {
	if low := os.Getenv(insideUser); low != "" {
		u := layersOf(t, true, low)
		if err := Tar(u, io.Discard); err == nil || err.Error() != "/etc/shadow: Permission denied" {
			t.Error(err)
		}
		dir := filepath.Join(os.Getenv("TMPDIR"), "dir")
		if err := Dir(u, dir); err == nil || err.Error() != "/etc/shadow: Permission denied" {
			t.Error(err)
		}
		if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Error("left a part")
		}
		return
	}
	needRoot(t)
	tmp, err := os.MkdirTemp("/tmp", "plash-exporters-")
	must(t, err)
	defer os.RemoveAll(tmp)
	low := filepath.Join(tmp, "low")
	write(t, "readable", low, "etc/passwd")
	must(t, os.Chmod(write(t, "secret", low, "etc/shadow"), 0o600))
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	exe := write(t, string(self), tmp, "exporters.test")
	must(t, os.Chmod(exe, 0o755))
	must(t, os.Chmod(tmp, 0o777))
	cmd := exec.Command("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups",
		"unshare", "--user", "--map-root-user", exe, "-test.run=^TestUnreadable$")
	cmd.Env = append(os.Environ(), insideUser+"="+low, "TMPDIR="+tmp, "GOCOVERDIR="+tmp)
	cmd.Dir = tmp
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// A file too fragmented for a sparse member is written with its zeros.
func TestManyExtents(t *testing.T) {
	low := t.TempDir()
	f, err := os.Create(filepath.Join(low, "f"))
	must(t, err)
	const n = 70000
	for i := range int64(n) {
		f.WriteAt([]byte{1}, i*8192)
	}
	f.Close()
	var b bytes.Buffer
	must(t, Tar(layersOf(t, false, low), &b))
	back := t.TempDir()
	must(t, importers.Unpack(&b, back, importers.UnpackOptions{}))
	var was, is unix.Stat_t
	must(t, unix.Stat(filepath.Join(low, "f"), &was))
	must(t, unix.Stat(filepath.Join(back, "f"), &is))
	if was.Size != is.Size || is.Blocks > was.Blocks*11/10 {
		t.Errorf("size %d, %d blocks; was %d, %d blocks", is.Size, is.Blocks, was.Size, was.Blocks)
	}
}

func TestBigNumbers(t *testing.T) {
	for _, c := range []struct {
		t    unix.Timespec
		want string
	}{
		{unix.Timespec{Sec: 1, Nsec: 500000000}, "1.5"}, {unix.Timespec{Sec: -1}, "-1"}, {unix.Timespec{Sec: -1, Nsec: 500000000}, "-0.5"},
		{unix.Timespec{Sec: -2, Nsec: 1}, "-1.999999999"}, {unix.Timespec{Sec: 100, Nsec: 1}, "100.000000001"}, {unix.Timespec{Sec: -100}, "-100"},
	} {
		if got := decimal(c.t); got != c.want {
			t.Errorf("%v: %s, want %s", c.t, got, c.want)
		}
	}
	for n := 0; n < 2000; n++ {
		if r := line("k", strings.Repeat("v", n)); !strings.HasPrefix(r, fmt.Sprint(len(r))+" ") {
			t.Fatalf("%d: record of %d bytes says %.5s", n, len(r), r)
		}
	}
}
