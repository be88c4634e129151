package union

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"
)

// TestListingMemory: a listing is held once, also while it is made: all that is
// allocated for it is little more than its entries.
func TestListingMemory(t *testing.T) {
	const names = 60000 // ext4 lets a file have 65,000
	var layers []Layer
	for i := range 2 {
		dir := t.TempDir()
		write(t, dir, "d/file")
		for k := range names / 2 {
			if err := os.Link(filepath.Join(dir, "d/file"), filepath.Join(dir, fmt.Sprintf("d/name%d-%06d", i, k))); err != nil {
				t.Fatal(err)
			}
		}
		layers = append(layers, Layer{Path: dir})
	}
	for n := 1; n <= 2; n++ {
		u, _ := open(t, layers[:n]...)
		d := walk(t, u, "d")
		if err := u.ReadDirAt(u.Root(), 0, func(Dirent, uint64) bool { return true }); err != nil { // has buffers made
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		count := 0
		if err := u.ReadDirAt(d, 0, func(Dirent, uint64) bool { count++; return true }); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if per := (after.TotalAlloc - before.TotalAlloc) / uint64(count); count < n*names/2 || per > 70 {
			t.Errorf("%d layers: %d names, %d bytes each", n, count, per)
		}
	}
}

// TestOwnName: who looks names up in the order of the listing, again and again and
// leaving some out, gets the listing's own; any other name stays as it is.
func TestOwnName(t *testing.T) {
	var l listing
	const names = 100
	for i := range names {
		l.add(Dirent{Name: fmt.Sprint("name", i)})
	}
	for range 2 {
		for i := 0; i < names; i += 1 + i%7 {
			name := fmt.Sprint("name", i)
			own := l.ownName(name)
			if own != name || unsafe.StringData(own) != unsafe.StringData(l.at(i).Name) {
				t.Errorf("%s is %s, in memory of its own", name, own)
			}
			if other := l.ownName("other"); other != "other" {
				t.Errorf("another name became %s", other)
			}
		}
	}
}

// TestListingChanges: names that come and go keep the others' positions, and a
// name is where it was put last, where there was one before if possible.
func TestListingChanges(t *testing.T) {
	var l listing
	const n = 3 * segmentSize
	name := func(i int) string { return fmt.Sprint("name", i) }
	for i := range n {
		l.add(Dirent{Name: name(i), Ino: uint64(i)})
	}
	for i := 0; i < n; i += 2 {
		at, ok := l.position(name(i))
		if !ok || at != i {
			t.Fatalf("%s is at %d, %v", name(i), at, ok)
		}
		l.remove(at)
	}
	for i := 0; i < n; i += 4 {
		l.set(Dirent{Name: name(i), Ino: uint64(n + i)})
	}
	for i := range n {
		at, ok := l.position(name(i))
		switch {
		case i%2 == 1 && (!ok || at != i), i%4 == 2 && ok, i%4 == 0 && (!ok || at%2 != 0 || l.at(at).Ino != uint64(n+i)):
			t.Fatalf("%s is at %d, %v", name(i), at, ok)
		}
	}
	if want := n/2 + n/4; l.count != want || len(l.all()) != want || l.size != n {
		t.Errorf("%d and %d names at %d positions, not %d", l.count, len(l.all()), l.size, want)
	}
	var now listing
	for _, e := range []Dirent{{Name: "new"}, {Name: name(5), Ino: 7}} {
		now.add(e)
	}
	l.update(&now)
	if at, ok := l.position(name(5)); !ok || at != 5 || l.at(5).Ino != 7 || l.count != 2 {
		t.Errorf("after an update: %d, %v, %d names", at, ok, l.count)
	}
}

// TestListingChurn: a directory in which names come and go for ever needs no more memory
// for that.
func TestListingChurn(t *testing.T) {
	var l listing
	for i := range 100 {
		l.add(Dirent{Name: fmt.Sprint("stays", i)})
	}
	for i := range 1_000_000 {
		name := fmt.Sprint("a name that comes and goes ", i)
		l.set(Dirent{Name: name})
		at, ok := l.position(name)
		if !ok {
			t.Fatalf("%s is not there", name)
		}
		l.remove(at)
	}
	if l.size > 101 || len(l.gaps) > 1 || len(l.table) > 1024 || l.names.size > 8*largeBlock {
		t.Errorf("%d positions, %d gaps, a table of %d, %d bytes for names", l.size, len(l.gaps), len(l.table), l.names.size)
	}
	for i := range 100 {
		if at, ok := l.position(fmt.Sprint("stays", i)); !ok || at != i {
			t.Errorf("name %d is at %d, %v", i, at, ok)
		}
	}
}

// TestListingSearch: few names are found without a table, many by one.
func TestListingSearch(t *testing.T) {
	var l listing
	const last = segmentSize + 99
	for i := range last + 1 {
		l.add(Dirent{Name: fmt.Sprint("name", i)})
	}
	l.remove(7)
	for i := 0; i < 2*tableAfter; i += 3 {
		if (l.table != nil) != (i > tableAfter) {
			t.Fatalf("after %d searches: table is %v", i, l.table)
		}
		if at, ok := l.position(fmt.Sprint("name", last)); !ok || at != last {
			t.Errorf("after %d searches: the last name is at %d, %v", i, at, ok)
		}
		for _, missing := range []string{"name7", fmt.Sprint("name", last+1)} {
			if at, ok := l.position(missing); ok {
				t.Errorf("after %d searches: %s is at %d", i, missing, at)
			}
		}
	}
}

// TestListingLate: what is made, removed and renamed in a directory of many names after
// it was listed shows when it is listed again, and costs no search before.
func TestListingLate(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "d/file")
	for i := range segmentSize {
		if err := os.Link(filepath.Join(dir, "d/file"), filepath.Join(dir, fmt.Sprint("d/name", i))); err != nil {
			t.Fatal(err)
		}
	}
	u, _ := open(t, Layer{Path: dir})
	d := walk(t, u, "d")
	list := func() map[string]int {
		times := map[string]int{}
		err := u.ReadDirAt(d, 0, func(e Dirent, _ uint64) bool { times[e.Name]++; return true })
		if err != nil {
			t.Fatal(err)
		}
		delete(times, ".")
		delete(times, "..")
		return times
	}
	list()
	for i := range tableAfter + 1 {
		l := d.dir().list.Load()
		if i <= 2 && l.searches > 0 {
			t.Errorf("%d searches for %d new names", l.searches, i)
		}
		if _, _, err := u.Create(d, fmt.Sprint("new", i), Creation{Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if i == 2 && list()["new2"] != 1 {
			t.Error("new2 is not listed")
		}
	}
	check(t, u.Unlink(d, "new1"))
	check(t, u.Unlink(d, "name1"))
	if _, _, err := u.Create(d, "name1", Creation{Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	check(t, u.Rename(d, "new2", d, "name2", 0))
	check(t, u.Rename(d, "new3", d, "newer", 0))
	got := list()
	for name, n := range got {
		if n != 1 {
			t.Errorf("%s is listed %d times", name, n)
		}
	}
	want, err := u.ReadDir(d)
	if err != nil || len(got) != len(want) || len(want) != segmentSize+1+tableAfter+1-2 {
		t.Errorf("%d names, of %d: %v", len(got), len(want), err)
	}
	for _, e := range want {
		if got[e.Name] == 0 {
			t.Errorf("%s is missing", e.Name)
		}
	}
}
