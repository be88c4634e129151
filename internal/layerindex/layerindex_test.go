package layerindex

import (
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func file(name string, ino uint64) Named {
	st := attributes(ino)
	return Named{Name: name, Entry: Entry{Ino: ino, Type: unix.DT_REG}, Stat: &st}
}

// named is an entry whose attributes are not known.
func named(name string, e Entry) Named { return Named{Name: name, Entry: e} }

// attributes returns some of the object ino, each with another number.
func attributes(ino uint64) unix.Stat_t {
	st := unix.Stat_t{
		Ino: ino, Mode: unix.S_IFREG | 0o4751, Uid: 1, Gid: 1<<32 - 2, Rdev: 1<<40 + 3, Size: 1<<50 + int64(ino), Blocks: 4,
		Atim: unix.Timespec{Sec: -5, Nsec: 6}, Mtim: unix.Timespec{Sec: 1 << 34, Nsec: 7}, Ctim: unix.Timespec{Sec: 8, Nsec: 999_999_999},
	}
	setNumber(&st.Nlink, 9)
	setNumber(&st.Blksize, 10)
	return st
}

// write writes an index of a small layer and returns its path:
//
//	a     file 10        d/     directory 20, marks 5
//	b     file 11        d/a    file 10
//	gone  whiteout       d/e/   directory 21, not indexed
//	empty/ directory 22  d/s    symlink 12
func write(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "index")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := NewWriter(f)
	root := w.NewDir(-1, "")
	d, empty := w.NewDir(root, "d"), w.NewDir(root, "empty")
	check := func(block uint32, err error) uint32 {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return block
	}
	dBlock := check(w.WriteDir(d, []Named{named("s", Entry{Ino: 12, Type: unix.DT_LNK}), named("e", Entry{Ino: 21, Type: TypeDir}), file("a", 10)}))
	emptyBlock := check(w.WriteDir(empty, nil))
	h := Head{Ino: 2, Sec: -1, Nsec: 999, Marks: 3, Flags: 7, View: 1 << 60}
	h.Root = check(w.WriteDir(root, []Named{
		named("gone", Entry{Type: TypeWhiteout}), file("b", 11), file("a", 10),
		named("d", Entry{Ino: 20, Type: TypeDir, Marks: 5, Block: dBlock}),
		named("empty", Entry{Ino: 22, Type: TypeDir, Block: emptyBlock}),
	}))
	if err := w.Finish(h); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t testing.TB, path string) *Index {
	t.Helper()
	x, err := Open(unix.AT_FDCWD, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.Close)
	return x
}

func names(x *Index, dir uint32) (list []string, err error) {
	err = x.All(dir, func(name []byte, e Entry) { list = append(list, fmt.Sprint(string(name), e)) })
	return list, err
}

func TestRoundTrip(t *testing.T) {
	path := write(t)
	if err := Tie(path, 77, 5, 6); err != nil {
		t.Fatal(err)
	}
	x := open(t, path)
	if x.Ino != 77 || x.Sec != 5 || x.Nsec != 6 || x.Marks != 3 || x.Flags != 7 || x.View != 1<<60 {
		t.Errorf("head: %+v", x.Head)
	}
	if err := x.Check(x.Root); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "A", "aa", "c", "zz"} {
		if _, found, err := x.Find(x.Root, name, nil); found || err != nil {
			t.Errorf("%q: %v, %v", name, found, err)
		}
	}
	if e, found, err := x.Find(x.Root, "gone", nil); !found || err != nil || e.Type != TypeWhiteout {
		t.Errorf("gone: %+v, %v, %v", e, found, err)
	}
	d, found, err := x.Find(x.Root, "d", nil)
	if !found || err != nil || d.Ino != 20 || d.Type != TypeDir || d.Marks != 5 {
		t.Fatalf("d: %+v, %v, %v", d, found, err)
	}
	if err := x.Check(d.Block); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if _, _, err := x.Find(d.Block, "a", &st); err != nil || st != attributes(10) {
		t.Errorf("attributes of d/a: %+v, %v", st, err)
	}
	if _, _, err := x.Find(d.Block, "s", &st); err != nil || st != attributes(10) {
		t.Errorf("attributes that are not known: %+v, %v", st, err)
	}
	list, err := names(x, d.Block)
	want := []string{"a{10 8 0 0}", "e{21 4 0 0}", "s{12 10 0 0}"}
	if err != nil || !slices.Equal(list, want) {
		t.Errorf("d lists %v, %v", list, err)
	}
	if n, err := x.Len(x.Root); n != 5 || err != nil {
		t.Errorf("the root has %d names, %v", n, err)
	}
	for ino, want := range map[uint64][]string{10: {"a", "d/a"}, 11: nil, 20: nil, 0: nil} {
		if got, err := x.Links(ino); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("names of %d: %q, %v", ino, got, err)
		}
	}
}

// TestDamage changes each byte of an index, and cuts it off at each length:
// what is read then is either as it was or refused.
func TestDamage(t *testing.T) {
	path := write(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := read(whole)
	if len(want) < 10 {
		t.Fatalf("the index says only %q", want)
	}
	for i := range whole {
		for _, flip := range []byte{1, 0x80, 0xff} {
			data := slices.Clone(whole)
			data[i] ^= flip
			expectPart(t, fmt.Sprintf("byte %d ^ %#x", i, flip), read(data), want)
		}
	}
	for n := range whole {
		if got := read(whole[:n]); got != nil {
			t.Errorf("cut off at %d: %q", n, got)
		}
	}
}

func expectPart(t *testing.T, what string, got, want []string) {
	t.Helper()
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("%s: %q", what, line)
		}
	}
}

// read returns all that an index says, in lines, as one who checks each block.
func read(data []byte) (lines []string) {
	x, err := parse(data)
	if err != nil {
		return nil
	}
	say := func(f string, args ...any) { lines = append(lines, fmt.Sprintf(f, args...)) }
	say("%d %d %d %d %d", x.Ino, x.Sec, x.Nsec, x.Marks, x.Flags)
	for _, ino := range []uint64{10, 11} {
		if paths, err := x.Links(ino); err == nil {
			say("%d: %q", ino, paths)
		}
	}
	var walk func(path string, dir uint32)
	walk = func(path string, dir uint32) {
		if x.Check(dir) != nil {
			return
		}
		err := x.All(dir, func(name []byte, e Entry) {
			say("%s/%s %v", path, name, e)
			if e.Block != 0 {
				walk(path+"/"+string(name), e.Block)
			}
		})
		if err != nil {
			say("%s: %v", path, err)
		}
	}
	walk("", x.Root)
	return lines
}

// TestCutWhileMapped makes the file shorter while it is in use.
func TestCutWhileMapped(t *testing.T) {
	path := write(t)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	x, err := openLarge(fd, int(info.Size()))
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if _, found, err := x.Find(x.Root, "a", nil); !found || err != nil {
		t.Fatalf("Find: %v, %v", found, err)
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if err := x.Check(x.Root); err != ErrDamaged {
		t.Errorf("Check: %v", err)
	}
	if _, _, err := x.Find(x.Root, "a", nil); err != ErrDamaged {
		t.Errorf("Find: %v", err)
	}
	if _, err := names(x, x.Root); err != ErrDamaged {
		t.Errorf("All: %v", err)
	}
	if _, err := x.Links(10); err != ErrDamaged {
		t.Errorf("Links: %v", err)
	}
}

func TestNotAnIndex(t *testing.T) {
	dir := t.TempDir()
	fifo, link, empty := filepath.Join(dir, "fifo"), filepath.Join(dir, "link"), filepath.Join(dir, "empty")
	for _, err := range []error{unix.Mkfifo(fifo, 0o600), os.Symlink(write(t), link), os.WriteFile(empty, nil, 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{fifo, link, empty, dir, filepath.Join(dir, "none")} {
		if x, err := Open(unix.AT_FDCWD, path); err == nil {
			x.Close()
			t.Errorf("%s is taken for an index", path)
		}
	}
}

// FuzzIndex reads indexes that may say anything: their sums are put right.
func FuzzIndex(f *testing.F) {
	whole, err := os.ReadFile(write(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole, uint32(headerSize/unit), uint64(10), "a")
	f.Fuzz(func(t *testing.T, data []byte, block uint32, ino uint64, name string) {
		read(data)
		data = slices.Clone(data)
		x := &Index{data: data}
		if len(data) >= headerSize {
			copy(data, magic)
			le.PutUint32(data[8:], version)
			le.PutUint64(data[16:], uint64(len(data)))
			le.PutUint32(data[12:], crc32.Checksum(data[16:headerSize], sums()))
			if x, err = parse(data); err != nil {
				t.Fatal(err)
			}
		}
		for _, block := range []uint32{block, x.Root, x.links} {
			repair(x, block)
			x.Check(block)
			x.Len(block)
			var st unix.Stat_t
			x.Find(block, name, &st)
			x.All(block, func(name []byte, e Entry) {
				if n := string(name); n == "." || n == ".." || n == "" || strings.ContainsAny(n, "/\x00") {
					t.Errorf("a name %q", n)
				}
			})
		}
		paths, _ := x.Links(ino)
		for _, path := range paths {
			if filepath.Clean(path) != path || filepath.IsAbs(path) || strings.HasPrefix(path+"/", "../") {
				t.Errorf("a path %q", path)
			}
		}
	})
}

// repair puts a block's number and sum right, if it lies in the index.
func repair(x *Index, number uint32) {
	start := uint64(number) * unit
	if start+blockHead > uint64(len(x.data)) {
		return
	}
	le.PutUint32(x.data[start+4:], number)
	b, err := x.block(number, number != x.links, false)
	if err != nil {
		return
	}
	end := start + blockHead + uint64(len(b.entries)+len(b.names))
	le.PutUint32(x.data[start:], crc32.Checksum(x.data[start+4:end], sums()))
}
