package union

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"plash/internal/layerindex"
)

// indexed: the tests' layers have indexes.
var indexed bool

// TestIndexed: merging does not depend on whether there are indexes.
func TestIndexed(t *testing.T) {
	indexed = true
	defer func() { indexed = false }()
	for name, test := range map[string]func(*testing.T){
		"Diff": TestDiff, "FewDescriptors": TestFewDescriptors, "Forgetting": TestForgetting, "InodeNumbers": TestInodeNumbers,
		"ManyLayers": TestManyLayers, "ParallelClients": TestParallelClients, "ScanWhileRemoving": TestScanWhileRemoving,
		"WhiteoutFiles": TestWhiteoutFiles,
	} {
		t.Run(name, test)
	}
}

// writeIndex writes an index of the layer at path and returns where it is.
func writeIndex(t *testing.T, path string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "index")
	if err := WriteIndex(path, name); err != nil {
		t.Fatal(err)
	}
	if err := TieIndex(name, path); err != nil {
		t.Fatal(err)
	}
	return name
}

// read opens a read-only union.
func read(t *testing.T, layers ...Layer) *Union {
	t.Helper()
	u, err := New(Config{Lowers: layers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	return u
}

// all lists a union, and how its names are found.
func all(t *testing.T, u *Union) []string {
	t.Helper()
	lines := tree(t, u, u.Root(), "")
	for _, path := range []string{"", "d"} {
		n, list := u.Root(), map[string]uint64{}
		if path != "" {
			n = walk(t, u, path)
		}
		ents, err := u.ReadDir(n)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range ents {
			list[e.Name] = e.Ino
		}
		for _, name := range []string{"d", "sub", "white", "dirgone", "file", "tofile", "hidden", "w1", "w2", "a", "new", "none", strings.Repeat("n", 255), strings.Repeat("n", 256)} {
			var st unix.Stat_t
			c, err := u.LookupStat(n, name, &st)
			line := fmt.Sprintf("%s/%s: %v", path, name, err)
			if err == nil {
				line += fmt.Sprint(" ", list[name], c.Type(), st)
			}
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

// threeLayers makes layers with everything that an index knows.
func threeLayers(t *testing.T) (layers []Layer) {
	t.Helper()
	for range 3 {
		layers = append(layers, Layer{Path: t.TempDir()})
	}
	top, middle, low := layers[0].Path, layers[1].Path, layers[2].Path
	write(t, low, "d/low", "d/hidden", "d/sub/x", "opaque/below", "file", "white", "dirgone/x", "link", "tofile/x", "closed/x", "d/w1", "d/w2")
	write(t, middle, "d/mid", "d/sub/y", "opaque/shown", "empty/", "tofile")
	write(t, top, "d/top", "d/w1", "d/w2", "deep/er/and/deeper")
	for _, err := range []error{
		os.Link(filepath.Join(low, "link"), filepath.Join(low, "d/link")),
		os.Symlink("x", filepath.Join(low, "d/symlink")),
		unix.Mkfifo(filepath.Join(low, "d/fifo"), 0o600),
		os.Chmod(filepath.Join(low, "closed"), 0o700),
		unix.Setxattr(filepath.Join(middle, "opaque"), "user.overlay.opaque", []byte("y"), 0),
		unix.Setxattr(filepath.Join(top, "d"), "user.overlay.opaque", []byte("x"), 0),
		os.Truncate(filepath.Join(top, "d/w1"), 0),
		os.Truncate(filepath.Join(top, "d/w2"), 0),
		unix.Setxattr(filepath.Join(top, "d/w2"), "user.overlay.whiteout", nil, 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"white", "dirgone", "d/hidden"} {
		if err := unix.Mknod(filepath.Join(middle, name), unix.S_IFCHR, 0); err != nil {
			t.Skip("whiteouts cannot be made here:", err)
		}
	}
	return layers
}

func withIndexes(t *testing.T, layers []Layer) []Layer {
	t.Helper()
	layers = slices.Clone(layers)
	for i := range layers {
		layers[i].Index = writeIndex(t, layers[i].Path)
	}
	return layers
}

func TestIndexShowsTheSame(t *testing.T) {
	layers := threeLayers(t)
	want := all(t, read(t, layers...))
	if len(want) < 15 {
		t.Fatalf("the tree is only %q", want)
	}
	full := withIndexes(t, layers)
	for n := range 8 { // each with and without
		some := slices.Clone(layers)
		for i := range some {
			if n>>i&1 != 0 {
				some[i] = full[i]
			}
		}
		u := read(t, some...)
		if got := all(t, u); !slices.Equal(got, want) {
			t.Errorf("with the indexes %03b there is\n%s\nnot\n%s", n, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		for i := range some {
			l, want := u.layers[i], some[i].Index != ""
			if used := l.index.Load() != nil; used != want || (l.attrs != nil) != want {
				t.Errorf("layer %d: used is %v, its attributes: %v", i, used, l.attrs != nil)
			}
		}
	}
}

// TestIndexAnswers: what the index knows the layer is not asked for. That shows
// when the layer is changed by hand, which nobody may do.
func TestIndexAnswers(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "d/a", "d/b", "d/sub/x")
	index := writeIndex(t, dir)
	u := read(t, Layer{Path: dir, Index: index})
	d := walk(t, u, "d")
	write(t, dir, "d/new")
	if _, err := u.Lookup(d, "new"); err != unix.ENOENT {
		t.Errorf("a name that the index lacks: %v", err)
	}
	if got := names(t, u, d); got != "a b sub" {
		t.Errorf("the index has a, b, sub; listed: %s", got)
	}
	walk(t, u, "d/a")
	if u.layers[0].index.Load() == nil {
		t.Error("the index was given up")
	}
	// Until the index is found wrong: then it is done without.
	if err := os.Remove(filepath.Join(dir, "d/b")); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Read(walk(t, u, "d/b"), nil, 0); err != unix.ESTALE {
		t.Errorf("a file that is gone: %v", err)
	}
	if _, err := u.Lookup(d, "b"); err != unix.ENOENT {
		t.Errorf("a file that is known to be gone: %v", err)
	}
	walk(t, u, "d/new")
	if got := names(t, u, walk(t, u, "d/sub")); got != "x" {
		t.Errorf("sub: %s", got)
	}
	if _, err := os.Lstat(index); !os.IsNotExist(err) {
		t.Errorf("the wrong index is still there: %v", err)
	}
}

// TestIndexAttributes: attributes are the index's, if its owner is trusted and
// saw owners as we do. Nobody gets the data of a file that has others.
func TestIndexAttributes(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, index string)
		used   bool
	}{
		"ours":        {func(*testing.T, string) {}, true},
		"for a group": {func(t *testing.T, index string) { check(t, os.Chmod(index, 0o620)) }, false},
		"another's": {func(t *testing.T, index string) {
			if err := os.Chown(index, 1, -1); err != nil {
				t.Skip("owners cannot be given here:", err)
			}
		}, false},
		"another's view": {func(t *testing.T, index string) { rewrite(t, index, 56) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "d/a", "d/b")
			index := writeIndex(t, dir)
			c.change(t, index)
			u := read(t, Layer{Path: dir, Index: index})
			a := filepath.Join(dir, "d/a")
			check(t, os.WriteFile(a, []byte("changed by hand"), 0))
			var st unix.Stat_t
			n, err := u.LookupStat(walk(t, u, "d"), "a", &st)
			if err != nil {
				t.Fatal(err)
			}
			if got := st.Size != int64(len("changed by hand")); got != c.used {
				t.Errorf("attributes are the index's: %v", got)
			}
			again := unix.Stat_t{Mode: unix.S_IFREG}
			if err := u.Getattr(n, &again); err != nil || again != st {
				t.Errorf("looked up %+v, asked for again %+v, %v", st, again, err)
			}
			want := error(nil)
			if c.used {
				want = unix.ESTALE
			}
			if _, err := u.Read(n, make([]byte, 9), 0); err != want {
				t.Errorf("read: %v", err)
			}
		})
	}
}

// TestIndexVerified: a file is compared with the index whenever it is opened, and
// when something is gone that the index has, later users do without it.
func TestIndexVerified(t *testing.T) {
	later := time.Now().Add(time.Hour)
	use := func(u *Union, n *Node) error { _, err := u.Read(n, make([]byte, 9), 0); return err }
	for name, change := range map[string]func(file string) error{
		"longer":   func(f string) error { return os.Truncate(f, 1000) },
		"modified": func(f string) error { return os.Chtimes(f, time.Time{}, later) },
		"mode":     func(f string) error { return os.Chmod(f, 0o4755) },
		"replaced": func(f string) error {
			var st unix.Stat_t
			return errors.Join(unix.Stat(f, &st), os.Link(f, f+"2"), os.Remove(f), os.WriteFile(f, make([]byte, st.Size), 0o644),
				os.Chtimes(f, time.Time{}, time.Unix(st.Mtim.Unix())))
		},
		"gone":                    os.Remove,
		"gone with its directory": func(f string) error { return os.RemoveAll(filepath.Dir(f)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "d/a", "e/b", "e/c")
			index := writeIndex(t, dir)
			u := read(t, Layer{Path: dir, Index: index})
			check(t, change(filepath.Join(dir, "d/a")))
			check(t, change(filepath.Join(dir, "e/b")))
			a, b := walk(t, u, "d/a"), walk(t, u, "e/b")
			for _, n := range []*Node{a, a, b} {
				if err := use(u, n); err != unix.ESTALE {
					t.Errorf("used again: %v", err)
				}
			}
			if _, err := os.Lstat(index); !os.IsNotExist(err) {
				t.Errorf("the wrong index is still there: %v", err)
			}
		})
	}
	// What others may do to a whole store changes nothing of a file.
	t.Run("linked", func(t *testing.T) {
		dir := t.TempDir()
		write(t, dir, "d/a")
		u := read(t, Layer{Path: dir, Index: writeIndex(t, dir)})
		check(t, os.Link(filepath.Join(dir, "d/a"), filepath.Join(t.TempDir(), "a")))
		if err := use(u, walk(t, u, "d/a")); err != nil || u.layers[0].index.Load() == nil {
			t.Errorf("read: %v, the index is used: %v", err, u.layers[0].index.Load() != nil)
		}
	})
}

// TestIndexUnknown: the index has no attributes of a file whose blocks are fewer
// than its size, since they may just not have been written.
func TestIndexUnknown(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "d/whole", "d/sparse")
	sparse := filepath.Join(dir, "d/sparse")
	check(t, os.Truncate(sparse, 1<<20))
	u := read(t, Layer{Path: dir, Index: writeIndex(t, dir)})
	for name, known := range map[string]bool{"whole": true, "sparse": false} {
		check(t, os.Chmod(filepath.Join(dir, "d", name), 0o711))
		var st unix.Stat_t
		if _, err := u.LookupStat(walk(t, u, "d"), name, &st); err != nil {
			t.Fatal(err)
		}
		if got := st.Mode&0o777 != 0o711; got != known {
			t.Errorf("%s: its mode is the index's: %v", name, got)
		}
	}
}

// rewrite changes byte at of an index's header.
func rewrite(t *testing.T, index string, at int) {
	t.Helper()
	data, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	data[at]++
	binary.LittleEndian.PutUint32(data[12:], crc32.Checksum(data[16:64], crc32.MakeTable(crc32.Castagnoli)))
	check(t, os.WriteFile(index, data, 0o600))
}

// TestStaleIndex: an index counts for its layer only, as it was.
func TestStaleIndex(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, dir, index string) (newDir string){
		"root changed": func(t *testing.T, dir, index string) string {
			write(t, dir, "new")
			return dir
		},
		"root's mode": func(t *testing.T, dir, index string) string {
			write(t, dir, "d/new")
			return dir + check(t, os.Chmod(dir, 0o711))
		},
		"moved": func(t *testing.T, dir, index string) string {
			write(t, dir, "d/new")
			return dir + "2" + check(t, os.Rename(dir, dir+"2"))
		},
		"another layer's": func(t *testing.T, dir, index string) string {
			write(t, dir, "d/new")
			other := t.TempDir()
			write(t, other, "other")
			return dir + check(t, os.Rename(writeIndex(t, other), index))
		},
		"file replaced": func(t *testing.T, dir, index string) string {
			write(t, dir, "d/a2", "d/new")
			return dir + check(t, os.Rename(filepath.Join(dir, "d/a2"), filepath.Join(dir, "d/a")))
		},
		"file made a directory": func(t *testing.T, dir, index string) string {
			write(t, dir, "d/new")
			check(t, os.Remove(filepath.Join(dir, "d/a")))
			write(t, dir, "d/a/")
			return dir
		},
		"never tied": func(t *testing.T, dir, index string) string {
			write(t, dir, "d/new")
			return dir + check(t, os.Remove(index)) + check(t, WriteIndex(t.TempDir(), index))
		},
		"no index": func(t *testing.T, dir, index string) string {
			write(t, dir, "d/new")
			return dir + check(t, os.Remove(index))
		},
		"a pipe": func(t *testing.T, dir, index string) string {
			write(t, dir, "d/new")
			return dir + check(t, os.Remove(index)) + check(t, unix.Mkfifo(index, 0o600))
		},
		"by others": func(t *testing.T, dir, index string) string {
			write(t, dir, "d/new")
			flag(t, index, indexTrusted|indexVaries, !realRoot())
			return dir
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "d/a", "d/b", "top")
			index := writeIndex(t, dir)
			dir = change(t, dir, index)
			u := read(t, Layer{Path: dir, Index: index})
			n := walk(t, u, "d/a")
			_, err := u.Read(n, nil, 0) // finds out about what was replaced
			if strings.HasPrefix(name, "file ") && err != unix.ESTALE {
				t.Errorf("read: %v", err)
			}
			u.Forget(n, 1)
			if err == unix.ESTALE { // until the next start
				u = read(t, Layer{Path: dir, Index: index})
			}
			want := all(t, read(t, Layer{Path: dir}))
			if got := all(t, u); !slices.Equal(got, want) {
				t.Errorf("with the index there is\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func check(t *testing.T, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return ""
}

// flag rewrites an index's flags.
func flag(t *testing.T, index string, bits uint8, on bool) {
	t.Helper()
	x, err := layerindex.Open(unix.AT_FDCWD, index)
	if err != nil {
		t.Fatal(err)
	}
	h := x.Head
	x.Close()
	f, err := os.Create(index)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := layerindex.NewWriter(f)
	h.Root, err = w.WriteDir(w.NewDir(-1, ""), nil)
	if err != nil {
		t.Fatal(err)
	}
	if h.Flags &^= bits; on {
		h.Flags |= bits
	}
	if err := w.Finish(h); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedIndex: a flipped byte or a missing end of an index changes nothing
// that is seen.
func TestDamagedIndex(t *testing.T) {
	layers := threeLayers(t)
	want := all(t, read(t, layers...))
	for i, l := range withIndexes(t, layers) {
		whole, err := os.ReadFile(l.Index)
		if err != nil {
			t.Fatal(err)
		}
		broken := slices.Clone(layers)
		broken[i].Index = l.Index
		try := func(what string, data []byte) {
			t.Helper()
			if err := os.WriteFile(l.Index, data, 0o600); err != nil {
				t.Fatal(err)
			}
			u, err := New(Config{Lowers: broken})
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			if got := all(t, u); !slices.Equal(got, want) {
				t.Fatalf("layer %d, %s: there is\n%s\nnot\n%s", i, what, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		for at := range whole {
			data := slices.Clone(whole)
			data[at] ^= 1 << (at % 8)
			try(fmt.Sprint("byte ", at), data)
			if at%11 == 0 {
				try(fmt.Sprint("cut off at ", at), whole[:at])
			}
		}
	}
}

// TestIndexLeavesOut: whether one may read a directory that is not for all, and
// not its maker's own, only the file system can say.
func TestIndexLeavesOut(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "own/x", "others/x", "open/x")
	for name, a := range map[string]struct {
		uid  int
		mode os.FileMode
	}{"own": {0, 0o700}, "others": {1, 0o750}, "open": {1, 0o755}} {
		path := filepath.Join(dir, name)
		if err := os.Chown(path, a.uid, a.uid); err != nil {
			t.Skip("owners cannot be given here:", err)
		}
		check(t, os.Chmod(path, a.mode))
	}
	u := read(t, Layer{Path: dir, Index: writeIndex(t, dir)})
	for name, want := range map[string]bool{"own": true, "others": false, "open": true} {
		if got := walk(t, u, name).dir().top().block != 0; got != want {
			t.Errorf("%s is in the index: %v", name, got)
		}
		walk(t, u, name+"/x")
	}
}

// TestCandidates: the filter of a directory that many layers share leads to
// what is found without it.
func TestCandidates(t *testing.T) {
	const count = 40
	var layers, plain []Layer
	for i := range count {
		dir := t.TempDir()
		write(t, dir, fmt.Sprint("d/own", i), fmt.Sprint("d/by", i%3), "d/all", fmt.Sprint("d/sub", i%5, "/", i))
		plain = append(plain, Layer{Path: dir})
		l := Layer{Path: dir, Index: writeIndex(t, dir)}
		if i%7 == 3 {
			l.Index = ""
		}
		layers = append(layers, l)
	}
	u, want := read(t, layers...), all(t, read(t, plain...))
	for range 100 {
		u.Lookup(walk(t, u, "d"), "none")
	}
	d := walk(t, u, "d").dir()
	f := d.filter.Load()
	if f == nil {
		t.Fatal("there is no filter")
	}
	if got := all(t, u); !slices.Equal(got, want) {
		t.Errorf("there is\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got, least := len(u.candidates(nil, d, "none")), count/7; got > least+1 {
		t.Errorf("%d directories are searched for what none has", got)
	}
	// An index that is given up is asked no more.
	u.distrust(u.layers[0])
	write(t, layers[0].Path, "d/new")
	walk(t, u, "d/new")
}
