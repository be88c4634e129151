package importers

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"plash/internal/fileattr"
)

// insideUser is set in the environment of the test binary when it runs as an
// ordinary user's root, with that one id mapped.
const insideUser = "PLASH_TEST_INSIDE_USER"

// asUser runs this test again as uid 1000 in a user namespace of its own, in a
// directory that user owns. It reports whether the caller is the outer one and
// has nothing left to do.
func asUser(t *testing.T) bool {
	if os.Getenv(insideUser) != "" {
		return false
	}
	needRoot(t)
	dir, err := os.MkdirTemp("/tmp", "plash-importers-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	exe := filepath.Join(dir, "importers.test")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, self, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups",
		"unshare", "--user", "--map-root-user", exe, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), insideUser+"=1", "TMPDIR="+dir, "GOCOVERDIR="+dir)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if bytes.Contains(out, []byte("--- SKIP")) {
		t.Skipf("%s", out)
	}
	return true
}

var stamp = time.Unix(1234567890, 123456789)

// member is a tar header with what all have in common.
func member(typ byte, name string) *tar.Header {
	h := &tar.Header{Typeflag: typ, Name: name, Mode: 0o644, ModTime: stamp, Format: tar.FormatPAX, Uid: os.Getuid(), Gid: os.Getgid()}
	if typ == tar.TypeDir {
		h.Mode = 0o755
	}
	return h
}

func file(name, content string) (*tar.Header, string) {
	h := member(tar.TypeReg, name)
	h.Size = int64(len(content))
	return h, content
}

// archiveOf writes headers, and contents as strings behind them.
func archiveOf(t testing.TB, parts ...any) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, p := range parts {
		var err error
		switch p := p.(type) {
		case *tar.Header:
			err = w.WriteHeader(p)
		case string:
			_, err = io.WriteString(w, p)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func all(lists ...[]any) (parts []any) {
	for _, l := range lists {
		parts = append(parts, l...)
	}
	return parts
}

func withFile(name, content string) []any {
	h, c := file(name, content)
	return []any{h, c}
}

func link(typ byte, name, target string) *tar.Header {
	h := member(typ, name)
	h.Linkname = target
	return h
}

// unpack unpacks into a new directory and returns that and the notices.
func unpack(t testing.TB, archive []byte) (dir, notices string, err error) {
	dir = filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	err = Unpack(bytes.NewReader(archive), dir, UnpackOptions{Notices: &b})
	return dir, b.String(), err
}

func mustUnpack(t testing.TB, archive []byte) string {
	dir, notices, err := unpack(t, archive)
	if err != nil {
		t.Fatal(err)
	}
	if notices != "" {
		t.Fatalf("notices: %s", notices)
	}
	return dir
}

func lstat(t testing.TB, elem ...string) (st unix.Stat_t) {
	t.Helper()
	if err := unix.Lstat(filepath.Join(elem...), &st); err != nil {
		t.Fatal(filepath.Join(elem...), err)
	}
	return st
}

func getxattr(t testing.TB, path, name string) string {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := unix.Lgetxattr(path, name, buf)
	if err != nil {
		t.Fatal(path, name, err)
	}
	return string(buf[:n])
}

// needRoot skips the test unless it runs as root outside of user namespaces.
func needRoot(t testing.TB) {
	ids, err := os.ReadFile("/proc/self/uid_map")
	if err != nil || os.Getuid() != 0 || strings.Join(strings.Fields(string(ids)), " ") != "0 0 4294967295" {
		t.Skip("needs root")
	}
}

// list gives the names below dir with their types, one a word.
func list(t testing.TB, dir string) string {
	var words []string
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			t.Fatal(err)
		}
		if rel, _ := filepath.Rel(dir, path); rel != "." {
			words = append(words, rel+d.Type().String()[:1])
		}
		return nil
	})
	sort.Strings(words)
	return strings.Join(words, " ")
}

// A capability as a file has it: CAP_NET_RAW, effective.
var netRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func TestAttributes(t *testing.T) {
	needRoot(t)
	dirHdr := member(tar.TypeDir, "./d/")
	dirHdr.Mode, dirHdr.Uid, dirHdr.Gid = 0o3751, 12, 13
	dirHdr.PAXRecords = map[string]string{"SCHILY.acl.default": "user::rwx,user:1000:r-x,group::r-x,mask::r-x,other::---"}
	f, content := file("./d/f", "content")
	f.Mode, f.Uid, f.Gid = 0o6755, 3000000, 4000000
	f.PAXRecords = map[string]string{
		"SCHILY.xattr.user.plain":                   "\x00binary",
		"SCHILY.xattr.user.empty":                   "",
		"SCHILY.xattr.user.a%3Db%25":                "escaped",
		"SCHILY.xattr.security.capability":          netRaw,
		"LIBARCHIVE.xattr.user.lib%41rchive":        base64.RawStdEncoding.EncodeToString([]byte("value")),
		"SCHILY.acl.access":                         "user::rwx\nuser:joe:rw-:1000\ngroup::r-x\nmask::rwx\nother::r-x\n",
		"SCHILY.xattr.user.overlay.opaque":          "y",
		"SCHILY.xattr.trusted.overlay.opaque":       "y",
		"SCHILY.xattr.user.fuseoverlayfs.opaque":    "y",
		"SCHILY.xattr.security.selinux":             "label",
		"LIBARCHIVE.xattr.trusted.overlay.whiteout": "eQ",
	}
	sym := link(tar.TypeSymlink, "./d/s", "/nowhere/at all")
	sym.Uid, sym.Gid = 5, 6
	sym.PAXRecords = map[string]string{"SCHILY.xattr.trusted.onlink": "yes"}
	dev := member(tar.TypeBlock, "./d/b")
	dev.Devmajor, dev.Devminor, dev.Mode, dev.Uid = 259, 1000, 0o660, 7
	char := member(tar.TypeChar, "./d/c")
	char.Devmajor, char.Devminor = 5, 1
	fifo := member(tar.TypeFifo, "./d/p")
	fifo.Mode = 0o620
	hard := link(tar.TypeLink, "./d/h", "./d/f")
	root := member(tar.TypeDir, "./")
	root.Mode, root.Uid = 0o751, 99
	dir := mustUnpack(t, archiveOf(t, root, dirHdr, f, content, sym, dev, char, fifo, hard))

	for _, c := range []struct {
		name         string
		mode         uint32
		uid, gid     uint32
		major, minor uint32
		links        uint64
		size         int64
	}{
		{name: ".", mode: unix.S_IFDIR | 0o751, uid: 99, links: 3, size: -1},
		{name: "d", mode: unix.S_IFDIR | 0o3751, uid: 12, gid: 13, links: 2, size: -1},
		{name: "d/f", mode: unix.S_IFREG | 0o6775, uid: 3000000, gid: 4000000, links: 2, size: 7},
		{name: "d/h", mode: unix.S_IFREG | 0o6775, uid: 3000000, gid: 4000000, links: 2, size: 7},
		{name: "d/s", mode: unix.S_IFLNK | 0o777, uid: 5, gid: 6, links: 1, size: 15},
		{name: "d/b", mode: unix.S_IFBLK | 0o660, uid: 7, major: 259, minor: 1000, links: 1},
		{name: "d/c", mode: unix.S_IFCHR | 0o644, major: 5, minor: 1, links: 1},
		{name: "d/p", mode: unix.S_IFIFO | 0o620, links: 1},
	} {
		st := lstat(t, dir, c.name)
		if st.Mode != c.mode || st.Uid != c.uid || st.Gid != c.gid || uint64(st.Nlink) != uint64(c.links) ||
			c.size >= 0 && st.Size != c.size ||
			unix.Major(st.Rdev) != c.major || unix.Minor(st.Rdev) != c.minor {
			t.Errorf("%s: mode %o owner %d:%d links %d size %d dev %d:%d", c.name, st.Mode, st.Uid, st.Gid,
				st.Nlink, st.Size, unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if got := time.Unix(st.Mtim.Unix()); !got.Equal(stamp) {
			t.Errorf("%s: mtime %v", c.name, got)
		}
	}
	if a, b := lstat(t, dir, "d/f"), lstat(t, dir, "d/h"); a.Ino != b.Ino {
		t.Error("d/h is no hard link")
	}
	path := filepath.Join(dir, "d/f")
	for name, want := range map[string]string{
		"user.plain": "\x00binary", "user.empty": "", "user.a=b%": "escaped", "user.libArchive": "value",
		"security.capability": netRaw, "user.overlay.overlay.opaque": "y", "trusted.overlay.overlay.opaque": "y",
		"trusted.overlay.overlay.whiteout": "y",
		fileattr.AccessACL: "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x06\x00\xe8\x03\x00\x00" +
			"\x04\x00\x05\x00\xff\xff\xff\xff" + "\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x05\x00\xff\xff\xff\xff",
	} {
		if got := getxattr(t, path, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	buf := make([]byte, 4096)
	n, err := unix.Listxattr(path, buf)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Split(string(buf[:n]), "\x00") {
		if name == "user.overlay.opaque" || name == "trusted.overlay.opaque" ||
			strings.HasPrefix(name, "user.fuse") || name == "security.selinux" {
			t.Errorf("unpacked with %s", name)
		}
	}
	if got := getxattr(t, filepath.Join(dir, "d/s"), "trusted.onlink"); got != "yes" {
		t.Error(got)
	}
	if got := getxattr(t, filepath.Join(dir, "d"), fileattr.DefaultACL); len(got) != 4+5*8 {
		t.Errorf("default ACL: %q", got)
	}
	if _, err := unix.Lgetxattr(path, fileattr.DefaultACL, buf); err == nil {
		t.Error("d's default list was inherited")
	}
}

// A directory that its own mode closes can still be filled, and the times of
// directories are the archive's.
func TestClosedDirectories(t *testing.T) {
	if asUser(t) {
		return
	}
	d, e := member(tar.TypeDir, "d"), member(tar.TypeDir, "d/e")
	d.Mode, e.Mode = 0o500, 0
	dir := mustUnpack(t, archiveOf(t, all([]any{d, e}, withFile("d/e/f", "x"), withFile("d/g", "y"))...))
	for name, mode := range map[string]uint32{"d": 0o500, "d/e": 0} {
		st := lstat(t, dir, name)
		if st.Mode&0o7777 != mode || !time.Unix(st.Mtim.Unix()).Equal(stamp) {
			t.Errorf("%s: mode %o, mtime %v", name, st.Mode, time.Unix(st.Mtim.Unix()))
		}
	}
}

// What an ordinary user with one id may not do is said once and left out.
func TestOneID(t *testing.T) {
	if asUser(t) {
		return
	}
	f, content := file("f", "x")
	f.Uid, f.Gid, f.Mode = 5, 5, 0o4755
	g, _ := file("g", "")
	g.Uid = 6
	g.PAXRecords = map[string]string{"SCHILY.xattr.trusted.x": "1", "SCHILY.xattr.user.ok": "1", "SCHILY.xattr.security.capability": netRaw}
	dev := member(tar.TypeBlock, "dev")
	parts := []any{f, content, g, dev, link(tar.TypeLink, "dev2", "dev"), &tar.Header{Typeflag: tar.TypeReg, Name: ".wh.gone"}}
	for range 100 { // the first one is named, although several are filled at once
		h, _ := file("many", "")
		h.Uid = 7
		parts = append(parts, h)
	}
	dir, notices, err := unpack(t, archiveOf(t, parts...))
	if err != nil {
		t.Fatal(err)
	}
	if st := lstat(t, dir, "f"); st.Mode != unix.S_IFREG|0o4755 || st.Uid != 0 {
		t.Errorf("f: %o, owner %d", st.Mode, st.Uid)
	}
	if getxattr(t, filepath.Join(dir, "g"), "user.ok") != "1" || getxattr(t, filepath.Join(dir, "g"), "security.capability") != netRaw {
		t.Error("attributes of g")
	}
	if got := list(t, dir); got != "f- g- goneD many-" {
		t.Error(got)
	}
	want := `plash: device nodes could not be kept, 1 in all, the first at dev: Operation not permitted
plash: extended attributes could not be kept, 1 in all, the first at g: trusted.x: Operation not permitted
plash: owners could not be kept, 102 in all, the first at f: only ids that are mapped into the user namespace can own files here
`
	if notices != want {
		t.Errorf("notices:\n%s", notices)
	}
}

func TestWhiteouts(t *testing.T) {
	needRoot(t)
	wh := func(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeReg, Name: name} }
	dir := mustUnpack(t, archiveOf(t, all([]any{
		wh("a/.wh.gone"), member(tar.TypeDir, "a"),
		wh("o/.wh.before"), wh("o/.wh..wh..opq"), wh("o/.wh.after")}, withFile("o/new", ""),
		[]any{wh(".wh..wh.plnk")},
		withFile("both", "mine"), []any{wh(".wh.both")},
		[]any{member(tar.TypeDir, "d"), wh(".wh.d"), wh(".wh.e"), member(tar.TypeDir, "e"), wh(".wh.i")}, withFile("i/f", ""),
	)...))
	if got := list(t, dir); got != "a/goneD ad both- dd ed i/f- id o/new- od" {
		t.Error(got)
	}
	for _, name := range []string{"o", "d", "e", "i"} {
		if getxattr(t, filepath.Join(dir, name), "user.overlay.opaque") != "y" {
			t.Errorf("%s is not opaque", name)
		}
	}
	if st := lstat(t, dir, "a/gone"); st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("a/gone: %o %d", st.Mode, st.Rdev)
	}
	for _, name := range []string{".wh.", ".wh..", ".wh...", "a/.wh.."} {
		if _, _, err := unpack(t, archiveOf(t, wh(name))); err == nil || err.Error() != name+": a whiteout of no name" {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A whiteout is no file that could have another name.
	_, _, err := unpack(t, archiveOf(t, wh("a/.wh.gone"), link(tar.TypeLink, "other", "a/gone")))
	if err == nil || err.Error() != "other: hard link to a/gone: not in the archive" {
		t.Error(err)
	}
}

// Where mknod is refused the second form is written.
func TestXattrWhiteout(t *testing.T) {
	dir := t.TempDir()
	u, err := newUnpacker(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer u.close()
	if err := u.xattrWhiteout(u.root, "gone"); err != nil {
		t.Fatal(err)
	}
	st := lstat(t, dir, "gone")
	if st.Size != 0 || getxattr(t, filepath.Join(dir, "gone"), "user.overlay.whiteout") != "y" || getxattr(t, dir, "user.overlay.opaque") != "x" {
		t.Error("not the form the union reads")
	}
}

func TestReplaced(t *testing.T) {
	dir := mustUnpack(t, archiveOf(t, all(
		withFile("f", "old"), withFile("f", "new"),
		withFile("d/x", "x"), withFile("d", "file"),
		withFile("e", "file"), []any{member(tar.TypeDir, "e")}, withFile("e/y", "y"),
		[]any{member(tar.TypeDir, "t"), link(tar.TypeSymlink, "l", "t")}, withFile("l/1", "1"),
		[]any{member(tar.TypeDir, "l")}, withFile("l/2", "2"),
		withFile("h1", "h"), []any{link(tar.TypeLink, "h2", "h1"), link(tar.TypeLink, "h2", "h1"), link(tar.TypeLink, "h1", "h1")},
	)...))
	if got := list(t, dir); got != "d- e/y- ed f- h1- h2- l/2- ld t/1- td" {
		t.Error(got)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "f")); string(got) != "new" {
		t.Errorf("f: %q", got)
	}
}

// Names lead below links as they do when the unpacked tree is the root.
func TestThroughLinks(t *testing.T) {
	dir := mustUnpack(t, archiveOf(t, all(
		[]any{member(tar.TypeDir, "./usr/lib"), link(tar.TypeSymlink, "./lib", "usr/lib"), link(tar.TypeSymlink, "./usr/lib64", "/lib"),
			link(tar.TypeSymlink, "./usr/lib/up", "../../lib64"), link(tar.TypeSymlink, "./lib64", "usr/../usr//lib64/.")},
		withFile("./lib/1", "1"), withFile("./usr/lib64/2", "2"), withFile("./usr/lib/up/3", "3"), withFile("lib64/sub/4", "4"),
		[]any{link(tar.TypeLink, "./lib/5", "./lib64/1")},
		withFile("x/../dots/6", "6"), withFile("dots//7", "7"),
	)...))
	if got := list(t, dir); got != "dots/6- dots/7- dotsd lib64L libL usr/lib/1- usr/lib/2- usr/lib/3- usr/lib/5- usr/lib/sub/4- usr/lib/subd usr/lib/upL usr/lib64L usr/libd usrd" {
		t.Error(got)
	}
}

func TestHostile(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(outside, "victim")
	if err := os.WriteFile(victim, []byte("untouched"), 0o644); err != nil {
		t.Fatal(err)
	}
	dirLink := func(target string) []any { return []any{link(tar.TypeSymlink, "esc", target)} }
	for name, c := range map[string]struct {
		parts []any
		want  string
	}{
		"parent":            {withFile("../victim", "bad"), "../victim: the name leads out of the archive's root"},
		"parent inside":     {withFile("a/../../victim", "bad"), "a/../../victim: the name leads out of the archive's root"},
		"absolute":          {withFile("/victim", "bad"), "/victim: the name is absolute"},
		"parent absolute":   {withFile("/../victim", "bad"), "/../victim: the name is absolute"},
		"parent itself":     {[]any{member(tar.TypeDir, "..")}, "..: the name leads out of the archive's root"},
		"absolute link":     {all(dirLink(outside), withFile("esc/victim", "bad")), "esc/victim: leads through the link esc -> " + outside + ": out of the archive's root"},
		"relative link":     {all(dirLink("../outside"), withFile("esc/victim", "bad")), "esc/victim: leads through the link esc -> ../outside: out of the archive's root"},
		"link to link":      {all(dirLink(".."), []any{link(tar.TypeSymlink, "two", "esc/outside")}, withFile("two/victim", "bad")), "two/victim: leads through the link two -> esc/outside: out of the archive's root"},
		"directory by link": {all(dirLink(outside), []any{member(tar.TypeDir, "esc/sub/")}), "esc/sub/: leads through the link esc -> " + outside + ": out of the archive's root"},
		"loop":              {all(dirLink("esc"), withFile("esc/x", "")), "esc/x: leads through the link esc -> esc: Too many levels of symbolic links"},
		"hard link out":     {[]any{link(tar.TypeLink, "x", "../outside/victim")}, "x: hard link to ../outside/victim: the name leads out of the archive's root"},
		"hard link abs":     {all([]any{link(tar.TypeLink, "x", victim)}, withFile("x", "bad")), "x: hard link to " + victim + ": the name is absolute"},
		"hard link by link": {all(dirLink(outside), []any{link(tar.TypeLink, "x", "esc/victim")}), "x: hard link to esc/victim: leads through the link esc -> " + outside + ": out of the archive's root"},
		"hard link to dir":  {[]any{member(tar.TypeDir, "d"), link(tar.TypeLink, "x", "d")}, "x: hard link to d: Operation not permitted"},
		"hard link to root": {[]any{link(tar.TypeLink, "x", ".")}, "x: hard link to .: a directory"},
		"file as root":      {[]any{link(tar.TypeSymlink, ".", "/")}, ".: the root can only be a directory"},
		"below a file":      {all(withFile("f", ""), withFile("f/x", "")), "f/x: f is not a directory"},
		"newline":           {withFile("../a\nb", ""), `"../a\nb": the name leads out of the archive's root`},
		"name too long":     {withFile(strings.Repeat("x", 256), ""), strings.Repeat("x", 256) + ": File name too long"},
		"multi-volume":      {[]any{&tar.Header{Typeflag: 'M', Name: "f"}}, "f: continued from another volume"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(filepath.Dir(outside), "target")
			os.RemoveAll(dir)
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			err := Unpack(bytes.NewReader(archiveOf(t, c.parts...)), dir, UnpackOptions{})
			if err == nil {
				t.Fatal("no error")
			}
			if err.Error() != c.want {
				t.Errorf("error: %s\nwant:  %s", err, c.want)
			}
			if got := list(t, filepath.Dir(outside)); !strings.Contains(got, "outside/victim- outsided") || strings.Contains(got, "outside/sub") {
				t.Error(got)
			}
			if got, err := os.ReadFile(victim); err != nil || string(got) != "untouched" {
				t.Errorf("victim: %q, %v", got, err)
			}
		})
	}
	t.Run("link replaced", func(t *testing.T) { // what stands last counts, and it stays inside
		dir := mustUnpack(t, archiveOf(t, all(dirLink(outside), withFile("esc", "file"))...))
		if got := list(t, dir); got != "esc-" {
			t.Error(got)
		}
	})
	t.Run("file through link", func(t *testing.T) {
		dir := mustUnpack(t, archiveOf(t, all(dirLink(victim), withFile("esc", "bad"))...))
		if got, _ := os.ReadFile(victim); string(got) != "untouched" || list(t, dir) != "esc-" {
			t.Errorf("victim: %q", got)
		}
	})
}

func TestDeep(t *testing.T) {
	var parts []any
	name := "."
	for len(name) < 3000 {
		name += "/d"
		parts = append(parts, member(tar.TypeDir, name))
	}
	long := "."
	for len(long) < 3000 {
		long += "/" + strings.Repeat("n", 200)
	}
	dir := mustUnpack(t, archiveOf(t, all(parts, withFile(name+"/f", "deep"), withFile(long+"/f", "long"),
		[]any{link(tar.TypeLink, long+"/h", name+"/f")})...))
	for _, name := range []string{name + "/f", long + "/h"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); string(got) != "deep" {
			t.Errorf("%q, %v", got, err)
		}
	}
	if st := lstat(t, dir, name); !time.Unix(st.Mtim.Unix()).Equal(stamp) {
		t.Error("time of the deepest directory")
	}
}

// What is too long for the kernel is refused, and at once: to remember each of
// a name's directories takes the square of its length.
func TestTooLong(t *testing.T) {
	deep := strings.Repeat("d/", 1500)
	for want, archive := range map[string][]byte{
		strings.Repeat("a/", 128) + "…: File name too long": archiveOf(t, withFile(strings.Repeat("a/", 500000)+"f", "x")...),
		strings.Repeat("f", 300) + ": File name too long":   archiveOf(t, withFile(strings.Repeat("f", 300), "x")...),
		"hard: hard link to " + strings.Repeat("a/", 128) + "…: File name too long": archiveOf(t,
			link(tar.TypeLink, "hard", strings.Repeat("a/", 500000)+"f")),
		// Each name is short enough, but not behind the link.
		"link/" + deep + "f: File name too long": archiveOf(t, all(withFile(deep+"f", "x"),
			[]any{link(tar.TypeSymlink, "link", deep)}, withFile("link/"+deep+"f", "x"))...),
	} {
		started := time.Now()
		_, _, err := unpack(t, archive)
		if err == nil || err.Error() != want {
			t.Errorf("%.500v\nwant %s", err, want)
		}
		if d := time.Since(started); d > 10*time.Second {
			t.Errorf("took %v", d)
		}
	}
}

// Holes stay holes, however the archive has them.
func TestSparse(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip(err)
	}
	src := t.TempDir()
	f, err := os.Create(filepath.Join(src, "f"))
	if err != nil {
		t.Fatal(err)
	}
	const size = 100 << 20
	f.WriteAt([]byte("begin"), 0)
	f.WriteAt([]byte("middle"), 50<<20+77)
	f.Truncate(size)
	f.Close()
	for _, args := range [][]string{
		{"--format=gnu", "-S"}, {"--format=gnu"},
		{"--format=pax", "-S", "--sparse-version=0.0"}, {"--format=pax", "-S", "--sparse-version=0.1"}, {"--format=pax", "-S"},
	} {
		cmd := exec.Command("tar", append(args, "-C", src, "-c", "f")...)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(args, err)
		}
		path := filepath.Join(mustUnpack(t, out), "f")
		st := lstat(t, path)
		got, err := os.ReadFile(path)
		if err != nil || st.Size != size || st.Blocks*512 > 1<<20 || string(got[:5]) != "begin" || string(got[50<<20+77:][:6]) != "middle" {
			t.Errorf("%v: size %d, blocks %d, %v", args, st.Size, st.Blocks, err)
		}
	}
}

func sample(t testing.TB) []byte {
	parts := []any{member(tar.TypeDir, "./")}
	for i := range 40 {
		parts = append(parts, withFile(fmt.Sprintf("./f%02d", i), strings.Repeat(fmt.Sprint(i), 1000*i))...)
	}
	return archiveOf(t, parts...)
}

// compressors are the programs that make the formats. Their output may be
// concatenated.
var compressors = map[string][]string{
	"gzip": {"gzip", "-c"}, "bzip2": {"bzip2", "-c"}, "xz": {"xz", "-c"}, "xz crc32": {"xz", "-c", "--check=crc32"},
	"xz sha256": {"xz", "-c", "--check=sha256", "--x86", "--lzma2=dict=96MiB"}, "zstd": {"zstd", "-c"},
	"zstd ultra": {"zstd", "-c", "--ultra", "-22"}, "lz4": {"lz4", "-c"}, "lz4 legacy": {"lz4", "-l", "-c"},
}

func compress(t testing.TB, command []string, data []byte) []byte {
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Skip(err)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestFormats(t *testing.T) {
	plain := sample(t)
	want := list(t, mustUnpack(t, plain))
	for name, command := range compressors {
		t.Run(name, func(t *testing.T) {
			whole := compress(t, command, plain)
			half := len(plain) / 2
			two := append(compress(t, command, plain[:half]), compress(t, command, plain[half:])...)
			for what, archive := range map[string][]byte{
				"whole": whole, "two streams": two,
				"garbage behind": append(append([]byte(nil), whole...), "garbage of any kind"...),
				"zeros behind":   append(append([]byte(nil), whole...), make([]byte, 512)...),
			} {
				if strings.HasPrefix(name, "lz4") && what == "zeros behind" || name == "lz4 legacy" && what == "garbage behind" {
					continue // the programs themselves refuse that
				}
				dir, _, err := unpack(t, archive)
				if err != nil {
					t.Errorf("%s: %v", what, err)
				} else if got := list(t, dir); got != want {
					t.Errorf("%s: %s", what, got)
				}
			}
			damaged := append([]byte(nil), whole...)
			damaged[len(damaged)*2/3] ^= 0x55
			if _, _, err := unpack(t, damaged); err == nil && name != "lz4 legacy" {
				t.Error("damage in the middle was not noticed")
			}
		})
	}
	garbage := append(append([]byte(nil), plain...), "garbage"...)
	if got := list(t, mustUnpack(t, garbage)); got != want {
		t.Error(got)
	}
	skippable := append([]byte{0x5a, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, compress(t, compressors["zstd"], plain)...)
	if got := list(t, mustUnpack(t, skippable)); got != want {
		t.Error(got)
	}
}

// An archive that ends early is never taken for a whole one.
func TestTruncated(t *testing.T) {
	plain := sample(t)
	archives := map[string][]byte{"plain": plain}
	for name, command := range compressors {
		if _, err := exec.LookPath(command[0]); err == nil {
			archives[name] = compress(t, command, plain)
		}
	}
	for name, archive := range archives {
		t.Run(name, func(t *testing.T) {
			step := len(archive)/15 + 1
			end := len(archive) - 1
			if name == "plain" {
				end -= 1024 // without the two blocks it is whole
				step = 512 * 35
			}
			if name == "lz4 legacy" {
				end -= 1024 // has no end of its own
			}
			for n := 0; n < end; n += step {
				for _, n := range []int{n, n + 1, end - n} {
					_, _, err := unpack(t, archive[:n])
					if err == nil {
						t.Fatalf("%d of %d bytes: no error", n, len(archive))
					}
					text := err.Error()
					if text != "truncated archive: unexpected EOF" && !(n < 512 && text == "not an archive") {
						t.Fatalf("%d of %d bytes: %s", n, len(archive), text)
					}
				}
			}
		})
	}
}

func TestNotAnArchive(t *testing.T) {
	zip := func(s string) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		w.Write([]byte(s))
		w.Close()
		return b.Bytes()
	}
	for name, data := range map[string][]byte{
		"empty": nil, "short": []byte("hello\n"), "long": bytes.Repeat([]byte("hello\n"), 1000),
		"nothing compressed": zip(""), "text compressed": zip("hello"), "long text compressed": zip(strings.Repeat("hello", 1000)),
	} {
		dir, _, err := unpack(t, data)
		if err == nil || err.Error() != "not an archive" {
			t.Errorf("%s: %v", name, err)
		}
		if got := list(t, dir); got != "" {
			t.Errorf("%s: left %s", name, got)
		}
	}
	if got := list(t, mustUnpack(t, make([]byte, 10240))); got != "" {
		t.Errorf("an archive of nothing gave %s", got)
	}
	if _, _, err := unpack(t, append(archiveOf(t, &tar.Header{Name: "d", Uid: os.Getuid(), Gid: os.Getgid()})[:512], bytes.Repeat([]byte("junk"), 1000)...)); err == nil || err.Error() != "damaged archive: invalid tar header" {
		t.Error(err)
	}
}

type failingReader struct {
	r   io.Reader
	err error
}

func (f failingReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err == io.EOF {
		err = f.err
	}
	return n, err
}

func TestReadError(t *testing.T) {
	data := sample(t)
	for _, n := range []int{0, 3, 100, 5000, len(data) / 2} {
		err := Unpack(failingReader{bytes.NewReader(data[:n]), unix.EIO}, t.TempDir(), UnpackOptions{})
		if !errors.Is(err, unix.EIO) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

func TestFullDisk(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	err := Unpack(bytes.NewReader(archiveOf(t, withFile("./some/big", strings.Repeat("x", 4<<20))...)), dir, UnpackOptions{})
	if err == nil || err.Error() != "./some/big: No space left on device" {
		t.Error(err)
	}
}

// No descriptor and no goroutine stays behind.
func TestNothingStays(t *testing.T) {
	count := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(d)
	}
	mustUnpack(t, sample(t))
	fds := count()
	for _, data := range [][]byte{sample(t), sample(t)[:30000], archiveOf(t, withFile("../x", "")...), archiveOf(t, link(tar.TypeLink, "a", "b"))} {
		unpack(t, data)
	}
	if n := count(); n != fds {
		t.Errorf("%d descriptors, %d before", n, fds)
	}
	for range 100 {
		if runtime.NumGoroutine() < 5 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines", runtime.NumGoroutine())
}

// FuzzUnpack: whatever the input, nothing happens outside the directory.
func FuzzUnpack(f *testing.F) {
	f.Add([]byte("garbage"))
	f.Add(sample(f)[:20000])
	f.Add(archiveOf(f, all([]any{link(tar.TypeSymlink, "l", "../canary"), link(tar.TypeLink, "h", "l"), &tar.Header{Name: ".wh.x"}},
		withFile("a/b", "c"))...))
	for name, command := range compressors {
		if _, err := exec.LookPath(command[0]); err == nil && name != "zstd ultra" {
			f.Add(compress(f, command, sample(f)[:20000]))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		parent := t.TempDir()
		if err := os.WriteFile(filepath.Join(parent, "canary"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(parent, "root")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		err := Unpack(bytes.NewReader(data), dir, UnpackOptions{Notices: io.Discard})
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q is not one line", err)
		}
		names, err := os.ReadDir(parent)
		if st := lstat(t, parent, "canary"); err != nil || len(names) != 2 || st.Size != 0 || st.Nlink != 1 || st.Mode != unix.S_IFREG|0o600 {
			t.Errorf("outside: %v, %v, %+v", err, names, st)
		}
	})
}
