package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"plash/internal/layerindex"
	"plash/internal/tree"
	"plash/internal/usertest"
	"plash/union"
)

// stacker, in the environment, is a data directory: the test program then
// stacks and removes there until it is killed.
const stacker = "STORE_TEST_STACK_IN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(stacker); dir != "" {
		stackForever(dir)
	}
	os.Exit(m.Run())
}

func TestAsUser(t *testing.T) { usertest.Rerun(t) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newStore(t *testing.T) *Store {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() { tree.Remove(dir) }) // what TempDir's own removal finds too deep
	s, err := Init(filepath.Join(dir, "data"))
	must(t, err)
	return s
}

// layerDir makes a directory of files that all hold text.
func layerDir(t *testing.T, text string, names ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "d")
	must(t, os.Mkdir(dir, 0755))
	for _, name := range names {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0644))
	}
	return dir
}

func stack(t *testing.T, s *Store, parent ID, names ...string) ID {
	t.Helper()
	id, err := s.Stack(parent, layerDir(t, "x", names...))
	must(t, err)
	return id
}

// layout lists the data directory but for what layers hold: links with their
// targets, directories with a slash, files with their size; without indexes.
func layout(t *testing.T, s *Store) []string {
	t.Helper()
	var lines []string
	must(t, filepath.WalkDir(s.Dir(), func(path string, e fs.DirEntry, err error) error {
		must(t, err)
		name, _ := filepath.Rel(s.Dir(), path)
		switch {
		case name == "." || strings.HasSuffix(name, indexFile):
		case e.IsDir():
			lines = append(lines, name+"/")
			if e.Name() == "root" {
				return filepath.SkipDir
			}
		case e.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			must(t, err)
			lines = append(lines, name+" -> "+target)
		case e.Name() == "meta.json":
			lines = append(lines, name)
		default:
			info, err := e.Info()
			must(t, err)
			lines = append(lines, fmt.Sprintf("%s %d", name, info.Size()))
		}
		return nil
	}))
	return lines
}

func wantLayout(t *testing.T, s *Store, want ...string) {
	t.Helper()
	slices.Sort(want)
	got := layout(t, s)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the data directory is\n\t%s\nnot\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// layerPaths returns where the layers of id are.
func layerPaths(t *testing.T, s *Store, id ID) (paths []string) {
	t.Helper()
	layers, err := s.Layers(id)
	must(t, err)
	for i, l := range layers {
		if l.Beside {
			l.Path = filepath.Join(paths[i-1], l.Path)
		}
		paths = append(paths, l.Path)
	}
	return paths
}

func wantError(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || err.Error() != text {
		t.Errorf("the error is %v, not %s", err, text)
	}
}

func wantImages(t *testing.T, s *Store, want ...ID) {
	t.Helper()
	got, err := s.Images()
	must(t, err)
	if !slices.Equal(got, want) {
		t.Errorf("the images are %v, not %v", got, want)
	}
}

var emptyStore = []string{
	"layer/", "layer/0/", "layer/0/_data/", "layer/0/_data/root/",
	"index/", "index/0 -> ../layer/0", "map/", "tmp/", "mnt/",
}

func TestLayout(t *testing.T) {
	s := newStore(t)
	wantLayout(t, s, append(emptyStore, "id_counter 0")...)
	one := stack(t, s, 0, "f")
	two := stack(t, s, one, "g")
	three := stack(t, s, 0, "h")
	must(t, s.SetMap("key", two))
	wantLayout(t, s, append(emptyStore, "id_counter 3",
		"layer/0/1/", "layer/0/1/_data/", "layer/0/1/_data/root/", "layer/0/1/_data/meta.json", "index/1 -> ../layer/0/1",
		"layer/0/1/2/", "layer/0/1/2/_data/", "layer/0/1/2/_data/root/", "layer/0/1/2/_data/meta.json", "index/2 -> ../layer/0/1/2",
		"layer/0/3/", "layer/0/3/_data/", "layer/0/3/_data/root/", "layer/0/3/_data/meta.json", "index/3 -> ../layer/0/3",
		"map/key -> ../layer/0/1/2")...)
	wantImages(t, s, one, two, three)

	node, err := s.NodePath(two)
	must(t, err)
	if node != s.Dir()+"/layer/0/1/2" {
		t.Error("node path", node)
	}
	if text, err := os.ReadFile(node + "/_data/root/g"); string(text) != "x" {
		t.Error(string(text), err)
	}
	if parent, err := s.Parent(two); parent != one || err != nil {
		t.Error(parent, err)
	}
	if parent, err := s.Parent(one); parent != 0 || err != nil {
		t.Error(parent, err)
	}
	layers, err := s.Layers(two)
	must(t, err)
	want := []union.Layer{
		{Path: s.Dir() + "/layer/0/1/2/_data/root", Index: "../index"},
		{Path: "../../../_data/root", Beside: true, Index: "../index"},
	}
	if !reflect.DeepEqual(layers, want) {
		t.Error(layers)
	}
	if paths := layerPaths(t, s, two); !slices.Equal(paths, []string{want[0].Path, s.Dir() + "/layer/0/1/_data/root"}) {
		t.Error(paths)
	}
	layers, err = s.Layers(0)
	must(t, err)
	if len(layers) != 1 || layers[0].Path != s.Dir()+"/layer/0/_data/root" {
		t.Error(layers)
	}

	// The data directory can be moved, and reached by a link.
	moved := filepath.Join(t.TempDir(), "moved")
	must(t, os.Rename(s.Dir(), moved))
	must(t, os.Symlink(moved, s.Dir()))
	wantImages(t, s, one, two, three)
	if id, err := s.Map("key"); id != two || err != nil {
		t.Error(id, err)
	}
}

func TestOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	_, err := Open(dir)
	wantError(t, err, dir+": No such file or directory")
	must(t, os.WriteFile(dir, nil, 0644))
	_, err = Open(dir)
	wantError(t, err, dir+": Not a directory")
	_, err = Init(dir)
	wantError(t, err, dir+": Not a directory")

	s, err := Init(filepath.Join(t.TempDir(), "deep/er/data"))
	must(t, err)
	one := stack(t, s, 0)
	if info, _ := os.Stat(s.Dir()); info.Mode().Perm() != 0700 {
		t.Error("mode", info.Mode())
	}
	s, err = Init(s.Dir()) // a second time changes nothing
	must(t, err)
	wantImages(t, s, one)
}

func TestDefaultDir(t *testing.T) {
	for _, c := range []struct{ data, home, want string }{
		{"rel/ative", "/h", "rel/ative"},
		{"", "/h", "/h/.plashdata"},
	} {
		t.Setenv("PLASH_DATA", c.data)
		t.Setenv("HOME", c.home)
		if got, err := DefaultDir(); got != c.want || err != nil {
			t.Error(got, err)
		}
	}
	t.Setenv("PLASH_DATA", "")
	t.Setenv("HOME", "")
	if got, err := DefaultDir(); err != nil || !filepath.IsAbs(got) {
		t.Error(got, err)
	}
}

func TestIDs(t *testing.T) {
	s := newStore(t)
	for _, word := range []string{"", "-1", "--", "x", "1x", "+1", "1.0", " 1", "٣"} {
		if _, err := ParseID(word); err == nil || !strings.HasSuffix(err.Error(), "must be a positive number") {
			t.Errorf("%q: %v", word, err)
		}
	}
	if id, err := ParseID("0"); id != 0 || err != nil {
		t.Error(id, err)
	}
	_, err := ParseID("99999999999999999999")
	wantError(t, err, "no image: 99999999999999999999")
	wantError(t, s.Check(999), "no image: 999")
	wantError(t, s.Check(0), "0: special root image")
	_, err = s.Parent(0)
	wantError(t, err, "0: special root image")
	if !errors.Is(s.Check(999), ErrNoImage) || !errors.Is(s.Check(0), ErrRoot) {
		t.Error("errors without their kind")
	}
	_, err = s.Stack(999, layerDir(t, ""))
	wantError(t, err, "no image: 999")
}

func TestStackErrors(t *testing.T) {
	s := newStore(t)
	one := stack(t, s, 0)
	_, err := s.Stack(one, "/no/such")
	wantError(t, err, "/no/such: No such file or directory")
	file := layerDir(t, "", "f") + "/f"
	_, err = s.Stack(one, file)
	wantError(t, err, file+": Not a directory")
	for _, dir := range []string{"/", s.Dir(), s.Dir() + "/tmp", s.Dir() + "/layer/0/1/_data/root"} {
		_, err = s.Stack(one, dir)
		wantError(t, err, dir+": is part of the data directory")
	}

	changes := layerDir(t, "", "data/f", "work/x")
	lock, err := lockIfFree(changes + "/work")
	must(t, err)
	_, err = s.Stack(one, changes+"/data")
	wantError(t, err, changes+"/data: changes directory in use")
	lock.Close()

	// A failure uses no id and leaves nothing.
	if id := stack(t, s, one); id != one+1 {
		t.Error("the next id is", id)
	}
	if left, _ := os.ReadDir(s.Dir() + "/tmp"); len(left) != 0 {
		t.Error("left:", left)
	}
}

func TestStackBringsItBack(t *testing.T) {
	s := newStore(t)
	dir := layerDir(t, "mine", "f")
	// A link that cannot be made, because a directory with files is in its place.
	must(t, os.Remove(s.Dir()+"/id_counter"))
	if _, err := s.Stack(0, dir); err == nil {
		t.Error("no error")
	}
	if text, _ := os.ReadFile(dir + "/f"); string(text) != "mine" {
		t.Error("the directory is gone")
	}
	wantImages(t, s)
}

func TestStackFromOtherFileSystem(t *testing.T) {
	s := newStore(t)
	dir, err := os.MkdirTemp("/dev/shm", "store")
	if err == nil {
		defer tree.Remove(dir)
	}
	if err != nil || sameFS(dir, s.Dir()) {
		t.Skip("there is no second file system to write to (/dev/shm)")
	}
	must(t, os.MkdirAll(dir+"/x/sub", 0751))
	must(t, os.Symlink("sub", dir+"/x/link"))
	id, err := s.Stack(0, dir+"/x")
	must(t, err)
	if _, err := os.Lstat(dir + "/x"); !os.IsNotExist(err) {
		t.Error("the directory is still there")
	}
	node, _ := s.NodePath(id)
	if info, err := os.Stat(root(node) + "/link"); err != nil || info.Mode() != fs.ModeDir|0751 {
		t.Error(info, err)
	}
}

// TestStackSeals: whiteouts that had to be files become devices, also in a
// directory that is copied into the store.
func TestStackSeals(t *testing.T) {
	for _, base := range []string{t.TempDir(), "/dev/shm"} {
		s := newStore(t)
		dir, err := os.MkdirTemp(base, "plash-test-")
		if err != nil {
			t.Skip(err)
		}
		defer os.RemoveAll(dir)
		must(t, os.MkdirAll(filepath.Join(dir, "d"), 0755))
		for _, name := range []string{"d/gone", "d/file"} {
			must(t, os.WriteFile(filepath.Join(dir, name), nil, 0600))
		}
		for name, attr := range map[string]string{"": "plash.files", "d": "opaque", "d/gone": "whiteout"} {
			if err := unix.Setxattr(filepath.Join(dir, name), "user.overlay."+attr, []byte("x"), 0); err != nil {
				t.Skip(err)
			}
		}
		id, err := s.Stack(0, dir)
		must(t, err)
		node, err := s.NodePath(id)
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(node, "_data/root/d/gone"), &st))
		if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
			t.Errorf("from %s: a whiteout of mode %o, device %d", base, st.Mode, st.Rdev)
		}
		must(t, unix.Lstat(filepath.Join(node, "_data/root/d/file"), &st))
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			t.Errorf("from %s: a file became mode %o", base, st.Mode)
		}
	}
}

func TestStackWhatItsOwnerMayNotWrite(t *testing.T) {
	s := newStore(t)
	dir := layerDir(t, "", "f")
	must(t, os.Chmod(dir, 0555))
	usertest.WithRights(t, []string{filepath.Dir(s.Dir()), filepath.Dir(dir)}, func() {
		id, err := s.Stack(0, dir)
		must(t, err)
		node, _ := s.NodePath(id)
		if info, err := os.Stat(root(node)); err != nil || info.Mode().Perm() != 0555 {
			t.Error(info, err)
		}
	})
}

// TestIndex: each layer of ours gets an index that counts for it, which it does
// also after the data directory was moved.
func TestIndex(t *testing.T) {
	s := newStore(t)
	moved := stack(t, s, 0, "a", "d/b")
	empty, err := s.StackEmpty(moved, Meta{})
	must(t, err)
	live, err := s.StackLive(empty, "/")
	must(t, err)
	other, err := os.MkdirTemp("/dev/shm", "plash")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(other) })
	must(t, os.WriteFile(other+"/c", nil, 0644))
	copied, err := s.Stack(0, other)
	must(t, err)
	to := s.Dir() + "2"
	must(t, os.Rename(s.Dir(), to))
	s, err = Open(to)
	must(t, err)
	for id, names := range map[ID]int{moved: 2, empty: 0, copied: 1} {
		node, err := s.NodePath(id)
		must(t, err)
		x, err := layerindex.Open(unix.AT_FDCWD, filepath.Join(node, indexFile))
		if err != nil {
			t.Error(id, err)
			continue
		}
		defer x.Close()
		var st unix.Stat_t
		must(t, unix.Stat(root(node), &st))
		if n, err := x.Len(x.Root); n != names || err != nil || x.Ino != st.Ino || x.Sec != st.Ctim.Sec || int64(x.Nsec) != st.Ctim.Nsec {
			t.Errorf("%d: %+v, %d names, %v; the root is %+v", id, x.Head, n, err, st)
		}
	}
	node, err := s.NodePath(live)
	must(t, err)
	if exists(filepath.Join(node, indexFile)) {
		t.Error("a live layer has an index")
	}
}

func TestStackLive(t *testing.T) {
	s := newStore(t)
	id, err := s.StackLive(0, "/")
	must(t, err)
	top := stack(t, s, id)
	layers, err := s.Layers(top)
	must(t, err)
	want := []union.Layer{{Path: s.Dir() + "/layer/0/1/2/_data/root", Index: "../index"}, {Path: "/", Live: true}}
	if !reflect.DeepEqual(layers, want) {
		t.Error(layers)
	}
	above, err := s.StackLive(top, "/")
	must(t, err)
	if layers, err = s.Layers(above); err != nil || !reflect.DeepEqual(layers, append([]union.Layer{{Path: "/", Live: true}}, want...)) {
		t.Error(layers, err)
	}
	_, err = s.StackLive(0, "/no/such")
	wantError(t, err, "/no/such: No such file or directory")
}

func TestMeta(t *testing.T) {
	s := newStore(t)
	begin := time.Now()
	m := Meta{Made: "pull:tarfile x", Entrypoint: []string{"/bin/x", "a b"}, Env: []string{"A=1"}}
	one, err := s.StackMeta(0, layerDir(t, ""), m)
	must(t, err)
	dir := layerDir(t, "")
	two, err := s.Stack(one, dir)
	must(t, err)
	got, err := s.Meta(two)
	must(t, err)
	if got.Created.Before(begin) || got.Made != "stack "+dir || !reflect.DeepEqual(got.Entrypoint, m.Entrypoint) || !reflect.DeepEqual(got.Env, m.Env) {
		t.Errorf("%+v", got)
	}
	if got, err = s.Meta(one); err != nil || got.Made != m.Made {
		t.Errorf("%+v %v", got, err)
	}
	if got, err = s.Meta(0); err != nil || !reflect.DeepEqual(got, Meta{}) {
		t.Errorf("%+v %v", got, err)
	}
	_, err = s.Meta(999)
	wantError(t, err, "no image: 999")
}

func TestMap(t *testing.T) {
	s := newStore(t)
	one := stack(t, s, 0)
	two := stack(t, s, one)
	if id, err := s.Map("k"); id != 0 || err != nil {
		t.Error(id, err)
	}
	must(t, s.SetMap("k", one))
	must(t, s.SetMap("k", two))
	if id, err := s.Map("k"); id != two || err != nil {
		t.Error(id, err)
	}
	must(t, s.UnsetMap("k"))
	must(t, s.UnsetMap("k"))
	if id, err := s.Map("k"); id != 0 || err != nil {
		t.Error(id, err)
	}
	must(t, s.SetMap("a key\nwith all sorts", one))
	must(t, s.SetMap("k", two))
	must(t, s.Remove(two))
	if id, err := s.Map("k"); id != 0 || err != nil {
		t.Error(id, err)
	}
	wantError(t, s.SetMap("k", 999), "no image: 999")
	wantError(t, s.SetMap("k", 0), "0: special root image")
	wantError(t, s.SetMap("a/b", one), "a/b: must not contain a slash")
	for _, key := range []string{"", ".", ".."} {
		if s.SetMap(key, one) == nil || s.UnsetMap(key) == nil {
			t.Errorf("the key %q is taken", key)
		}
	}
}

func TestRemove(t *testing.T) {
	s := newStore(t)
	one := stack(t, s, 0)
	two := stack(t, s, one)
	three := stack(t, s, two)
	four := stack(t, s, one)
	wantError(t, s.Remove(0), "0: special root image")
	wantError(t, s.Remove(999), "no image: 999")

	node, _ := s.NodePath(three)
	user, err := os.Open(root(node))
	must(t, err)
	must(t, unix.Flock(int(user.Fd()), unix.LOCK_SH))
	err = s.Remove(two)
	wantError(t, err, "3: image in use")
	if !errors.Is(err, ErrInUse) {
		t.Error("an error without its kind")
	}
	wantError(t, s.Purge(), "3: image in use")
	wantImages(t, s, one, two, three, four)
	user.Close()

	must(t, s.Remove(two))
	wantImages(t, s, one, four)
	wantError(t, s.Check(three), "no image: 3")
	wantLayout(t, s, append(emptyStore, "id_counter 4",
		"layer/0/1/", "layer/0/1/_data/", "layer/0/1/_data/root/", "layer/0/1/_data/meta.json", "index/1 -> ../layer/0/1",
		"layer/0/1/4/", "layer/0/1/4/_data/", "layer/0/1/4/_data/root/", "layer/0/1/4/_data/meta.json", "index/4 -> ../layer/0/1/4")...)
	if id := stack(t, s, one); id != 5 {
		t.Error("the next id is", id)
	}
}

// 500 images inside one another work, although the path is long; a node whose
// path the kernel could not take is refused.
func TestDepth(t *testing.T) {
	s := newStore(t)
	must(t, os.Truncate(s.Dir()+"/id_counter", 9000))
	id := ID(0)
	for i := range 500 {
		dir := layerDir(t, strconv.Itoa(i), "f")
		next, err := s.Stack(id, dir)
		must(t, err)
		id = next
	}
	if id != 9500 {
		t.Error("the last id is", id)
	}
	layers := layerPaths(t, s, id)
	if len(layers) != 500 {
		t.Error(len(layers), "layers")
	}
	for i, path := range layers {
		if text, err := os.ReadFile(path + "/f"); string(text) != strconv.Itoa(499-i) {
			t.Fatal(path, string(text), err)
		}
	}
	must(t, s.SetMap("deep", id))
	if got, err := s.Map("deep"); got != id || err != nil {
		t.Error(got, err)
	}
	wantError(t, s.SetMap("x", 1), "no image: 1")

	var err error
	for last := id; err == nil; {
		id = last
		last, err = s.Stack(id, layerDir(t, ""))
	}
	if !regexp.MustCompile(`^\d+: too many layers: .*$`).MatchString(err.Error()) {
		t.Error("the error is", err)
	}
	node, _ := s.NodePath(id)
	if l := len(node); l > maxNode || l < maxNode-5 {
		t.Errorf("the longest path has %d bytes", l)
	}
	if sibling := stack(t, s, 0); sibling != id+1 {
		t.Error("the refusal used an id:", sibling)
	}
	if ids, err := s.Images(); err != nil || len(ids) != int(id)-9000+1 {
		t.Error(len(ids), err)
	}
	must(t, s.Remove(9001))
	wantImages(t, s, id+1)
}

func TestTemp(t *testing.T) {
	s := newStore(t)
	sid, _ := unix.Getsid(0)
	name := regexp.MustCompile(fmt.Sprintf(`^%s/tmp/plashtmp_%d_%d_[^_/]{6,}$`, regexp.QuoteMeta(s.Dir()), sid, os.Getpid()))

	locked, err := s.TempDir()
	must(t, err)
	if !name.MatchString(locked.Path) {
		t.Error(locked.Path)
	}
	living, err := s.MkTemp(sid, os.Getpid())
	must(t, err)
	if !name.MatchString(living) {
		t.Error(living)
	}

	// A process that is gone; and one that is younger than the directory.
	child := exec.Command("true")
	must(t, child.Run())
	gone := child.Process.Pid
	dead, err := s.MkTemp(1, gone)
	must(t, err)
	must(t, os.MkdirAll(dead+"/a/b", 0755))
	must(t, os.Chmod(dead, 0))
	inherited, err := s.mkTemp(1, gone, 0700)
	must(t, err)
	lock, err := lockIfFree(inherited)
	must(t, err)
	adopted := AdoptTemp(inherited, lock)

	must(t, os.Mkdir(s.Dir()+"/tmp/unknown", 0755))
	must(t, os.Mkdir(s.Dir()+"/tmp/plashtmp_x", 0755))
	removed, err := s.Clean(CleanAll)
	must(t, err)
	if want := []string{"tmp/" + filepath.Base(dead)}; !slices.Equal(removed, want) {
		t.Errorf("clean removed %v, not %v", removed, want)
	}
	must(t, locked.Remove())
	must(t, adopted.Remove())
	must(t, os.Remove(living))
	left, _ := os.ReadDir(s.Dir() + "/tmp")
	if len(left) != 2 {
		t.Error(left)
	}
}

func TestReusedProcessNumber(t *testing.T) {
	s := newStore(t)
	dir, err := s.MkTemp(1, 1)
	must(t, err)
	if !madeBy(1, dir) {
		t.Error("process 1 is older than the directory")
	}
	if !madeBy(os.Getpid(), dir) {
		t.Error("we are older than the directory")
	}
	if testing.Short() {
		return
	}
	time.Sleep(3 * time.Second)
	child := exec.Command("sleep", "100")
	must(t, child.Start())
	defer child.Wait()
	defer child.Process.Kill()
	if madeBy(child.Process.Pid, dir) {
		t.Error("a younger process cannot have made the directory")
	}
}

func TestClean(t *testing.T) {
	s := newStore(t)
	one := stack(t, s, 0)
	two := stack(t, s, one)
	must(t, s.SetMap("k", two))
	must(t, s.SetMap("gone", two))
	must(t, s.Remove(two))
	must(t, s.SetMap("k", one))
	must(t, os.Symlink("../layer/0/77", s.index(77)))
	must(t, os.Symlink("../nowhere", s.Dir()+"/index/unknown"))
	must(t, os.WriteFile(s.Dir()+"/map/file", nil, 0644))
	must(t, os.Remove(s.index(one))) // it comes back

	wantImages(t, s)
	for _, c := range []struct {
		what What
		want []string
	}{
		{CleanTmp, nil},
		{CleanIndex, []string{"index/77"}},
		{CleanKeys, []string{"map/gone"}},
		{CleanAll, nil},
	} {
		removed, err := s.Clean(c.what)
		if err != nil || !slices.Equal(removed, c.want) {
			t.Error(c.what, removed, err)
		}
	}
	wantImages(t, s, one)
	if id, err := s.Map("k"); id != one || err != nil {
		t.Error(id, err)
	}
	for _, name := range []string{"index/unknown", "map/file"} {
		if !exists(s.path(name)) {
			t.Error("clean removed", name)
		}
	}
}

// The states in which being killed can leave the store.
func TestRepair(t *testing.T) {
	s := newStore(t)
	one := stack(t, s, 0)
	two := stack(t, s, one)

	// after the node's rename, before the counter
	must(t, os.Truncate(s.Dir()+"/id_counter", 1))
	if id := stack(t, s, one); id != 3 {
		t.Error("the next id is", id)
	}
	// after the link, before the node's rename
	must(t, os.Symlink("../layer/0/1/4", s.index(4)))
	wantImages(t, s, one, two, 3)
	if id := stack(t, s, 0); id != 4 {
		t.Error("the next id is", id)
	}
	// the link lost, the counter behind
	must(t, os.Remove(s.index(4)))
	must(t, os.Truncate(s.Dir()+"/id_counter", 3))
	if id := stack(t, s, 0); id != 5 {
		t.Error("the next id is", id)
	}
	wantImages(t, s, one, two, 3, 4, 5)
}

func TestPurge(t *testing.T) {
	s := newStore(t)
	stack(t, s, stack(t, s, 0))
	must(t, os.WriteFile(s.Dir()+"/not ours", nil, 0644))
	tmp, err := s.TempDir()
	must(t, err)
	wantError(t, s.Purge(), tmp.Path+": in use")
	must(t, tmp.Remove())
	_, err = s.MkTemp(1, os.Getpid())
	must(t, err)
	must(t, s.Purge())
	wantLayout(t, s, "not ours 0")
	wantImages(t, s)
	wantError(t, s.Check(1), "no image: 1")
	must(t, s.Purge())
	must(t, os.Remove(s.Dir()+"/not ours"))

	s, err = Init(s.Dir())
	must(t, err)
	if id := stack(t, s, 0); id != 1 {
		t.Error("the first id is", id)
	}
}

// Several processes and goroutines at once get different, consecutive ids.
func TestConcurrent(t *testing.T) {
	s := newStore(t)
	one := stack(t, s, 0)
	const workers, each = 8, 10
	dirs := make(chan string, workers*each)
	for range workers * each {
		dirs <- layerDir(t, "x", "f")
	}
	close(dirs)
	var wait sync.WaitGroup
	for range workers {
		wait.Go(func() {
			for dir := range dirs {
				id, err := s.Stack(one, dir)
				if err == nil {
					err = s.SetMap("key", id)
				}
				if err == nil && id%3 == 0 {
					err = s.Remove(id)
				}
				if err == nil {
					_, err = s.Clean(CleanAll)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	var want []ID
	for id := ID(1); id <= 1+workers*each; id++ {
		if id%3 != 0 {
			want = append(want, id)
		}
	}
	wantImages(t, s, want...)
}

// layerFiles is how many files a layer of stackForever has.
const layerFiles = 20

// stackForever stacks layers upon each other and removes some again.
func stackForever(dir string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	s, err := Init(dir)
	fail(err)
	for i := 0; ; i++ {
		tmp, err := s.TempDir()
		fail(err)
		data := tmp.Path + "/data"
		fail(os.Mkdir(data, 0755))
		for n := range layerFiles {
			fail(os.WriteFile(fmt.Sprintf("%s/%d", data, n), []byte("content"), 0644))
		}
		ids, err := s.Images()
		fail(err)
		parent := ID(0)
		if len(ids) > 0 && i%4 != 0 {
			parent = ids[len(ids)-1]
		}
		_, err = s.Stack(parent, data)
		fail(err)
		fail(tmp.Remove())
		if len(ids) > 10 {
			fail(s.SetMap("last", ids[5]))
			fail(s.Remove(ids[5]))
		}
	}
}

// Whenever a process is killed, every listed image is complete, ids go on
// without a gap, and clean finds the litter.
func TestKilled(t *testing.T) {
	s := newStore(t)
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	for i := range rounds {
		child := exec.Command("/proc/self/exe")
		child.Env = append(os.Environ(), stacker+"="+s.Dir())
		var said strings.Builder
		child.Stderr = &said
		must(t, child.Start())
		time.Sleep(20*time.Millisecond + time.Duration(i*i*7919%60000)*time.Microsecond)
		child.Process.Kill()
		child.Wait()
		if said.Len() > 0 {
			t.Fatal(said.String())
		}

		ids, err := s.Images()
		must(t, err)
		for _, id := range ids {
			for _, path := range layerPaths(t, s, id) {
				for n := range layerFiles {
					if text, err := os.ReadFile(fmt.Sprintf("%s/%d", path, n)); string(text) != "content" {
						t.Fatal(path, n, string(text), err)
					}
				}
			}
		}
		counter, err := os.Stat(s.Dir() + "/id_counter")
		must(t, err)
		if n := len(ids); n > 0 && int64(ids[n-1]) > counter.Size()+1 {
			t.Errorf("image %d with a counter of %d", ids[n-1], counter.Size())
		}
		_, err = s.Clean(CleanAll)
		must(t, err)
		if left, _ := os.ReadDir(s.Dir() + "/tmp"); len(left) != 0 {
			t.Fatal("left in tmp/:", left)
		}
		links, err := s.links("index")
		must(t, err)
		if len(links) != len(ids)+1 {
			t.Fatalf("%d links for %d images", len(links), len(ids))
		}
	}
	counter, _ := os.Stat(s.Dir() + "/id_counter")
	next := stack(t, s, 0)
	if d := int64(next) - counter.Size(); d != 1 && d != 2 {
		t.Errorf("after a counter of %d comes image %d", counter.Size(), next)
	}
	t.Logf("%d images were made", next-1)
}

// Shrink takes the lowest leaf each time, half of the images, and leaves what
// is in use.
func TestShrink(t *testing.T) {
	shrink := func(s *Store) string {
		var said []string
		must(t, s.Shrink(func(id ID, err error) {
			if err != nil {
				said = append(said, "("+err.Error()+")")
				return
			}
			said = append(said, id.String())
		}))
		return strings.Join(said, " ")
	}
	s := newStore(t)
	if got := shrink(s); got != "" {
		t.Error("without images:", got)
	}
	// 1 ─ 2 ─ 3, 1 ─ 5, 4
	one := stack(t, s, 0)
	two := stack(t, s, one)
	stack(t, s, two)
	stack(t, s, 0)
	stack(t, s, one)
	if got := shrink(s); got != "3 2 4" {
		t.Error("removed", got)
	}
	wantImages(t, s, 1, 5)
	release, err := s.Hold(5)
	must(t, err)
	six := stack(t, s, 0)
	if got := shrink(s); got != "(5: image in use) 6" { // and 1 is not alone
		t.Error("removed", got)
	}
	wantError(t, s.Remove(one), "5: image in use")
	release()
	if got := shrink(s); got != "5" {
		t.Error("removed", got)
	}
	if got := shrink(s); got != "1" {
		t.Error("removed", got)
	}
	if _, err := s.Hold(six); !errors.Is(err, ErrNoImage) {
		t.Error(err)
	}
	// Somebody has just built on it.
	seven := stack(t, s, 0)
	eight := stack(t, s, seven)
	wantError(t, s.remove(seven, false), "7: has children")
	wantImages(t, s, seven, eight)
}

// An empty layer shows the same root directory, and keeps what is beside it.
func TestStackEmpty(t *testing.T) {
	s := newStore(t)
	dir := layerDir(t, "x", "f")
	must(t, os.Chmod(dir, 0711|fs.ModeSticky))
	one, err := s.Stack(0, dir)
	must(t, err)
	two, err := s.StackEmpty(one, Meta{Made: "check x", Entrypoint: []string{"e"}})
	must(t, err)
	node, err := s.NodePath(two)
	must(t, err)
	if info, err := os.Stat(root(node)); err != nil || info.Mode() != fs.ModeDir|fs.ModeSticky|0711 {
		t.Error(info.Mode(), err)
	}
	if m, err := s.Meta(two); err != nil || m.Made != "check x" || len(m.Entrypoint) != 1 {
		t.Error(m, err)
	}
	_, err = s.StackEmpty(99, Meta{})
	wantError(t, err, "no image: 99")
}

// A session has its last image; that of a session that is over is forgotten.
func TestSession(t *testing.T) {
	s := newStore(t)
	one, two := stack(t, s, 0), stack(t, s, 0)
	wantLast := func(want ID) {
		t.Helper()
		if id, err := s.Last(); id != want || err != nil {
			t.Error(id, err)
		}
	}
	wantLast(0)
	must(t, s.SetLast(one))
	must(t, s.SetLast(two))
	wantLast(two)
	// One with the same number, of an earlier day, and one before the last start.
	sid, err := unix.Getsid(0)
	must(t, err)
	key := sessionKey(sid)
	over := []string{sessionPrefix + "999999999_5_x", fmt.Sprintf("%s%d_1_x", sessionPrefix, sid), key + "x"}
	for _, k := range append(over, "session:mine", "5_1_x") {
		must(t, s.SetMap(k, one))
	}
	removed, err := s.Clean(CleanKeys)
	must(t, err)
	slices.Sort(removed)
	want := []string{"map/" + over[0], "map/" + over[1], "map/" + over[2]}
	slices.Sort(want)
	if !slices.Equal(removed, want) {
		t.Errorf("removed %q, want %q", removed, want)
	}
	wantLast(two)
	must(t, s.Remove(two))
	wantLast(0)
}

// A key that is set while Clean looks at its old, dangling link stays.
func TestCleanWhileSet(t *testing.T) {
	s := newStore(t)
	one := stack(t, s, 0)
	for i := range 100 {
		key := fmt.Sprint("key", i)
		gone := stack(t, s, 0)
		must(t, s.SetMap(key, gone))
		must(t, s.Remove(gone))
		var wait sync.WaitGroup
		wait.Go(func() {
			if _, err := s.Clean(CleanKeys); err != nil {
				t.Error(err)
			}
		})
		wait.Go(func() {
			if err := s.SetMap(key, one); err != nil {
				t.Error(err)
			}
		})
		wait.Wait()
		if id, err := s.Map(key); id != one || err != nil {
			t.Fatal(i, id, err)
		}
	}
}
