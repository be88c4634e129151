package union

import (
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// write makes files below dir, directories as needed; names ending in / are
// directories, others files that contain their own name.
func write(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o755)
		} else if err == nil {
			err = os.WriteFile(path, []byte(name), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// lay returns the layer at path, with an index if these tests have one.
func lay(t *testing.T, path string) Layer {
	t.Helper()
	l := Layer{Path: path}
	if indexed {
		l.Index = writeIndex(t, path)
	}
	return l
}

// open returns a writable union of lowers, topmost first, and its upper.
func open(t *testing.T, lowers ...Layer) (*Union, string) {
	t.Helper()
	upper, work := t.TempDir(), t.TempDir()
	u, err := New(Config{Lowers: lowers, Upper: upper, Work: work})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	return u, upper
}

// walk returns the node at path; the test never forgets it.
func walk(t *testing.T, u *Union, path string) *Node {
	t.Helper()
	n := u.Root()
	for _, name := range strings.Split(path, "/") {
		c, err := u.Lookup(n, name)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		n = c
	}
	return n
}

func names(t *testing.T, u *Union, n *Node) string {
	t.Helper()
	ents, err := u.ReadDir(n)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range ents {
		all = append(all, e.Name)
	}
	sort.Strings(all)
	return strings.Join(all, " ")
}

func TestWorkDirectoryInUse(t *testing.T) {
	upper, work := t.TempDir(), t.TempDir()
	c := Config{Lowers: []Layer{{Path: t.TempDir()}}, Upper: upper, Work: work}
	u, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(c); err == nil || !strings.Contains(err.Error(), "changes directory in use") {
		t.Errorf("second user: %v", err)
	}
	// Nor may another mount use the upper as its own, but as a lower layer.
	if _, err := New(Config{Upper: upper, Work: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "upper directory in use") {
		t.Errorf("second user of the upper: %v", err)
	}
	below, err := New(Config{Lowers: []Layer{{Path: upper}}})
	if err != nil {
		t.Fatal(err)
	}
	defer below.Close()
	write(t, work, "work/#1/left/over")
	first := u
	time.AfterFunc(100*time.Millisecond, func() { first.Close() }) // as a server that has just lost its mount
	if u, err = New(c); err != nil {
		t.Fatalf("at the first user's end: %v", err)
	}
	defer u.Close()
	if ents, _ := os.ReadDir(filepath.Join(work, "work")); len(ents) != 0 {
		t.Errorf("left over: %v", ents)
	}
}

// Who found a lower file just before it was unlinked does not bring its name back:
// what is then written to it, by who has it open, has none.
func TestFoundBeforeUnlinked(t *testing.T) {
	lower := t.TempDir()
	write(t, lower, "f")
	u, _ := open(t, lay(t, lower))
	n := walk(t, u, "f")
	h, err := u.find(u.Root().dir(), "f")
	check(t, err)
	check(t, u.Unlink(u.Root(), "f"))
	if err := u.named(n, u.Root(), "f", &h); err != unix.ENOENT {
		t.Errorf("found: %v", err)
	}
	check(t, u.Write(n, []byte("new"), 0, false))
}

// A work directory is refused from which nothing can be renamed to the upper.
func TestForeignWorkDirectory(t *testing.T) {
	work, err := os.MkdirTemp("/dev/shm", "plashtest")
	if err != nil {
		t.Skip(err)
	}
	defer os.Remove(work)
	upper := t.TempDir()
	if other := t.TempDir(); realRoot() {
		check(t, unix.Mount(other, other, "", unix.MS_BIND, ""))
		defer unix.Unmount(other, unix.MNT_DETACH)
		if _, err := New(Config{Upper: upper, Work: other}); err == nil || !strings.Contains(err.Error(), "mount") {
			t.Errorf("on another mount: %v", err)
		}
	}
	var a, b unix.Stat_t
	if unix.Stat(work, &a) != nil || unix.Stat(upper, &b) != nil || a.Dev == b.Dev {
		t.Skip("/dev/shm is no file system of its own")
	}
	if _, err := New(Config{Upper: upper, Work: work}); err == nil || !strings.Contains(err.Error(), "file system") {
		t.Errorf("%v", err)
	}
	if ents, _ := os.ReadDir(upper); len(ents) > 0 {
		t.Errorf("made there: %v", ents)
	}
}

// Where mknod(2) is refused, whiteouts are empty files with an attribute.
func TestWhiteoutFiles(t *testing.T) {
	lower := t.TempDir()
	write(t, lower, "a", "b", "d/x", "d/y", "empty")
	os.Truncate(filepath.Join(lower, "empty"), 0)
	u, upper := open(t, lay(t, lower))
	u.white.files = true
	for _, name := range []string{"a", "empty"} {
		if err := u.Unlink(u.Root(), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := u.Unlink(walk(t, u, "d"), "x"); err != nil {
		t.Fatal(err)
	}
	if err := u.Rename(u.Root(), "b", u.Root(), "c", 0); err != nil {
		t.Fatal(err)
	}
	check := func(u *Union) {
		t.Helper()
		if got := names(t, u, u.Root()); got != "c d" {
			t.Errorf("root: %s", got)
		}
		if got := names(t, u, walk(t, u, "d")); got != "y" {
			t.Errorf("d: %s", got)
		}
		if _, err := u.Lookup(u.Root(), "a"); err != unix.ENOENT {
			t.Errorf("a: %v", err)
		}
	}
	check(u)
	u.Close()
	again, err := New(Config{Lowers: []Layer{lay(t, upper), lay(t, lower)}})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	check(again)
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(upper, "a"), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		t.Errorf("whiteout: %v, mode %o", err, st.Mode)
	}
}

// Whiteouts that are devices are links of one. If that is gone, or has as many links
// as it may have, another one takes its place.
func TestWhiteoutLinks(t *testing.T) {
	lower := t.TempDir()
	write(t, lower, "a", "b", "changed", "c", "d", "kept")
	u, upper := open(t, lay(t, lower))
	whiteout := func(name string) (ino uint64) {
		t.Helper()
		if err := u.Unlink(u.Root(), name); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(upper, name), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
			t.Fatalf("%s: mode %o, %v", name, st.Mode, err)
		}
		return st.Ino
	}
	first := whiteout("a")
	if u.white.files {
		t.Skip("devices cannot be made here")
	}
	mode := uint32(0o600)
	if err := u.Setattr(walk(t, u, "changed"), SetAttr{Mode: &mode}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"b", "changed"} {
		if whiteout(name) != first {
			t.Errorf("%s: another whiteout", name)
		}
	}
	u.unlinkWork(u.white.donor)
	second := whiteout("c")
	if second == first {
		t.Error("the whiteout that was gone is linked")
	}
	if whiteout("d") != second {
		t.Error("d: a third whiteout")
	}
	if got := names(t, u, u.Root()); got != "kept" {
		t.Errorf("left: %s", got)
	}
	left := 0
	if err := readDirFD(u.workFD(), func(rawDirent) bool { left++; return true }); err != nil || left != 1 {
		t.Errorf("%d names in the work directory, not the whiteout alone, %v", left, err)
	}
}

// Inode numbers are the same in listings, before and after copy-up and rename,
// and after the node was forgotten.
func TestInodeNumbers(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	write(t, a, "d/a", "top")
	write(t, b, "d/b", "d/c", "low")
	u, _ := open(t, lay(t, a), lay(t, b))
	number := func(path string) uint64 {
		t.Helper()
		n := walk(t, u, path)
		var st unix.Stat_t
		if err := u.Getattr(n, &st); err != nil {
			t.Fatal(err)
		}
		parent := u.Root()
		if dir := filepath.Dir(path); dir != "." {
			parent = walk(t, u, dir)
		}
		ents, _ := u.ReadDir(parent)
		for _, e := range ents {
			if e.Name == filepath.Base(path) && e.Ino != st.Ino {
				t.Errorf("%s: %d in the listing, %d itself", path, e.Ino, st.Ino)
			}
		}
		u.Forget(n, uint64(n.refs.Load()))
		return st.Ino
	}
	before := map[string]uint64{}
	seen := map[uint64]string{}
	for _, p := range []string{"d", "d/a", "d/b", "d/c", "top", "low"} {
		before[p] = number(p)
		if q, ok := seen[before[p]]; ok {
			t.Errorf("%s and %s have the same number", p, q)
		}
		seen[before[p]] = p
	}
	for p := range before {
		mode := uint32(0o700)
		n := walk(t, u, p)
		if err := u.Setattr(n, SetAttr{Mode: &mode}); err != nil {
			t.Fatal(err)
		}
		u.Forget(n, uint64(n.refs.Load()))
	}
	for p, ino := range before {
		if got := number(p); got != ino {
			t.Errorf("%s: %d before copy-up, %d after", p, ino, got)
		}
	}
	if err := u.Rename(u.Root(), "d", u.Root(), "e", 0); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"", "/a", "/b", "/c"} {
		if got := number("e" + p); got != before["d"+p] {
			t.Errorf("e%s: %d before rename, %d after", p, before["d"+p], got)
		}
	}
}

// A scan that removes names on its way meets every name once.
func TestScanWhileRemoving(t *testing.T) {
	lower := t.TempDir()
	var all []string
	for i := range 3000 {
		all = append(all, "d/"+strings.Repeat("n", 1+i%50)+string(rune('A'+i%26))+time.Duration(i).String())
	}
	write(t, lower, all...)
	u, _ := open(t, lay(t, lower))
	d := walk(t, u, "d")
	met := map[string]int{}
	for from := uint64(0); ; {
		var batch []string
		err := u.ReadDirAt(d, from, func(e Dirent, cookie uint64) bool {
			from = cookie
			if e.Name != "." && e.Name != ".." {
				batch = append(batch, e.Name)
			}
			return len(batch) < 100
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(batch) == 0 {
			break
		}
		for _, name := range batch {
			met[name]++
			if err := u.Unlink(d, name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(met) != len(all) {
		t.Errorf("met %d of %d names", len(met), len(all))
	}
	if err := u.Rmdir(u.Root(), "d"); err != nil {
		t.Error(err)
	}
}

func TestManyLayers(t *testing.T) {
	base := t.TempDir()
	var layers []Layer
	for i := range 1000 {
		dir := filepath.Join(base, time.Duration(i).String())
		write(t, dir, "all/f"+time.Duration(i).String(), "same")
		layers = append(layers, lay(t, dir))
	}
	u, _ := open(t, layers...)
	ents, err := u.ReadDir(walk(t, u, "all"))
	if err != nil || len(ents) != 1000 {
		t.Errorf("%d names, %v", len(ents), err)
	}
	walk(t, u, "all/f999ns")
	if err := u.Unlink(u.Root(), "same"); err != nil {
		t.Error(err)
	}
	if _, err := u.Lookup(u.Root(), "same"); err != unix.ENOENT {
		t.Errorf("removed from a thousand layers: %v", err)
	}
}

// With few descriptors everything works: unlinked files are parked.
func TestFewDescriptors(t *testing.T) {
	lower := t.TempDir()
	var files []string
	for i := range 100 {
		files = append(files, time.Duration(i).String()+"/f")
	}
	write(t, lower, files...)
	u, _ := open(t, lay(t, lower))
	u.fds.max.Store(8)
	var nodes []*Node
	for _, f := range files {
		n := walk(t, u, f)
		if err := u.Write(n, []byte("new"), 0, false); err != nil {
			t.Fatal(err)
		}
		if err := u.Unlink(walk(t, u, filepath.Dir(f)), "f"); err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, n)
	}
	if len(u.fds.ring) > 16 || u.nHeld.Load() > 8 {
		t.Errorf("%d handles, %d held", len(u.fds.ring), u.nHeld.Load())
	}
	for _, n := range nodes {
		buf := make([]byte, 3)
		if k, err := u.Read(n, buf, 0); err != nil || string(buf[:k]) != "new" {
			t.Fatalf("%q, %v", buf[:k], err)
		}
		u.Forget(n, 1)
	}
	h, _ := u.work.pin(u)
	left := 0
	fd, _ := u.openat(h.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	defer unix.Close(fd)
	readDirFD(fd, func(e rawDirent) bool { left++; return true })
	if left > 1 { // the whiteout that others are links of
		t.Errorf("%d objects left in the work directory", left)
	}
}

func TestForgetting(t *testing.T) {
	lower := t.TempDir()
	write(t, lower, "a", "b", "d/c")
	u, _ := open(t, lay(t, lower))
	n := walk(t, u, "a")
	id, gen := n.ID()
	if again := walk(t, u, "a"); again != n {
		t.Error("the same name gave another node")
	}
	u.Forget(n, 1)
	if u.ByID(id) != n {
		t.Error("forgotten too early")
	}
	u.Forget(n, 1)
	if u.ByID(id) != nil {
		t.Error("not forgotten")
	}
	other := walk(t, u, "b")
	if id2, gen2 := other.ID(); id2 == id && gen2 == gen {
		t.Error("the number was used again with the same generation")
	}
}

// Without an upper every change is EROFS.
func TestReadOnly(t *testing.T) {
	lower := t.TempDir()
	write(t, lower, "f", "d/g")
	u, err := New(Config{Lowers: []Layer{{Path: lower}}})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	root, f, d, mode := u.Root(), walk(t, u, "f"), walk(t, u, "d"), uint32(0o600)
	size := int64(0)
	for what, err := range map[string]error{
		"write":       u.Write(f, []byte("x"), 0, false),
		"chmod":       u.Setattr(f, SetAttr{Mode: &mode}),
		"chmod a dir": u.Setattr(d, SetAttr{Mode: &mode}),
		"truncate":    u.Setattr(f, SetAttr{Size: &size}),
		"fallocate":   u.Fallocate(f, 0, 0, 10),
		"setxattr":    u.Setxattr(f, "user.x", nil, 0),
		"unlink":      u.Unlink(root, "f"),
		"rmdir":       u.Rmdir(root, "d"),
		"rename":      u.Rename(root, "f", d, "f", 0),
		"link":        err2(u.Link(f, d, "f")),
		"mkdir":       err3(u.Mkdir(root, "new", Creation{Mode: 0o755})),
		"create":      err3(u.Create(root, "new", Creation{Mode: 0o644})),
		"symlink":     err3(u.Symlink(root, "new", "x", Creation{})),
		"mknod":       err3(u.Mknod(root, "new", Creation{Mode: unix.S_IFIFO | 0o644}, 0)),
		"tmpfile":     err3(u.Tmpfile(root, Creation{Mode: 0o644})),
	} {
		if err != unix.EROFS {
			t.Errorf("%s: %v", what, err)
		}
	}
	buf := make([]byte, 10)
	if n, err := u.Read(f, buf, 0); err != nil || string(buf[:n]) != "f" {
		t.Errorf("read: %q, %v", buf[:n], err)
	}
}

func err3(_ *Node, _ *unix.Stat_t, err error) error { return err }
