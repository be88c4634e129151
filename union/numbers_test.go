package union

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNumbersWhileCopiedUp: who lists a directory while files in it are copied up and
// forgotten sees the numbers that they always had.
func TestNumbersWhileCopiedUp(t *testing.T) {
	const dirs, files = 300, 3
	low := t.TempDir()
	for i := range dirs {
		for k := range files {
			write(t, low, fmt.Sprint(i, "/", k))
		}
	}
	u, _ := open(t, lay(t, low))
	u.volatile = true
	numbers := func(d *Node) [files]uint64 {
		ents, err := u.ReadDir(d)
		if err != nil || len(ents) != files {
			t.Errorf("%v, %v", ents, err)
		}
		var all [files]uint64
		for _, e := range ents {
			all[e.Name[0]-'0'] = e.Ino
		}
		return all
	}
	mode := uint32(0o600)
	for i := range dirs {
		d := walk(t, u, fmt.Sprint(i))
		was := numbers(d)
		var working, listing sync.WaitGroup
		var done atomic.Bool
		for range 2 {
			listing.Go(func() {
				for !done.Load() {
					if is := numbers(d); is != was {
						t.Errorf("numbers in %d were %v and are %v", i, was, is)
						return
					}
				}
			})
		}
		for k := range files {
			working.Go(func() {
				n, err := u.Lookup(d, fmt.Sprint(k))
				if err == nil {
					err = u.Setattr(n, SetAttr{Mode: &mode})
					u.Forget(n, 1)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		working.Wait()
		done.Store(true)
		listing.Wait()
	}
}

// TestNumbersStay: whatever is changed, moved, linked, forgotten and mounted again,
// listings show the numbers that lookups show, and these stay.
func TestNumbersStay(t *testing.T) {
	for seed := range uint64(30) {
		low, top, upper := t.TempDir(), t.TempDir(), t.TempDir()
		write(t, low, "a/x", "a/sub/y", "a/sub/deep/z", "b/v", "b/w", "c/")
		write(t, top, "a/sub/t", "b/w")
		write(t, upper, "a/sub/", "c/") // as others make them
		config := Config{Lowers: []Layer{lay(t, top), lay(t, low)}, Upper: upper, Work: t.TempDir(), Volatile: true, Redirect: seed%3 == 0}
		// A symlink's number outlasts the mount where redirects are written only.
		links, remounts := seed%3 != 1, seed%3 == 1 || config.Redirect && realRoot()
		if links {
			if err := os.Symlink("x", filepath.Join(low, "a/link")); err != nil {
				t.Fatal(err)
			}
		}
		u, err := New(config)
		check(t, err)
		r := rand.New(rand.NewPCG(seed, 1))
		want := map[string]uint64{}
		numbers(t, u, u.Root(), "", want)
		for step := range 60 {
			changeOne(t, u, r, want)
			if remounts && step%20 == 19 {
				u.Close()
				u, err = New(config)
				check(t, err)
			}
			is := map[string]uint64{}
			numbers(t, u, u.Root(), "", is)
			for path := range want {
				if is[path] != want[path] {
					t.Fatalf("seed %d, step %d: the number of %s is %d, was %d", seed, step, path, is[path], want[path])
				}
			}
			if len(is) != len(want) {
				t.Fatalf("seed %d, step %d: there are %v, want %v", seed, step, is, want)
			}
		}
		u.Close()
	}
}

// numbers adds to all what dir and those in it show, and compares it with what
// lookups say. It forgets what it looks up.
func numbers(t *testing.T, u *Union, dir *Node, path string, all map[string]uint64) {
	t.Helper()
	ents, err := u.ReadDir(dir)
	check(t, err)
	for _, e := range ents {
		var st unix.Stat_t
		n, err := u.LookupStat(dir, e.Name, &st)
		check(t, err)
		at := path + "/" + e.Name
		if st.Ino != e.Ino {
			t.Fatalf("%s is listed as %d and is %d", at, e.Ino, st.Ino)
		}
		all[at] = st.Ino
		if n.IsDir() {
			numbers(t, u, n, at, all)
		}
		u.Forget(n, 1)
	}
}

// changeOne changes a random object of u, and want accordingly.
func changeOne(t *testing.T, u *Union, r *rand.Rand, want map[string]uint64) {
	t.Helper()
	paths := slices.Sorted(maps.Keys(want))
	path := paths[r.IntN(len(paths))]
	n := walk(t, u, path[1:])
	defer u.Forget(n, 1)
	parentOf := func(path string) *Node {
		if filepath.Dir(path) == "/" {
			return u.Root()
		}
		return walk(t, u, filepath.Dir(path)[1:])
	}
	to := filepath.Join(filepath.Dir(paths[r.IntN(len(paths))]), fmt.Sprint("new", r.Uint32()))
	switch mode := uint32(0o700); {
	case r.IntN(3) == 0 && n.Type() != unix.S_IFLNK:
		check(t, u.Setattr(n, SetAttr{Mode: &mode}))
	case r.IntN(3) == 0 && !n.IsDir():
		_, err := u.Link(n, parentOf(to), filepath.Base(to))
		check(t, err)
		want[to] = want[path]
	case r.IntN(3) == 0 && !n.IsDir() && len(want) > 8:
		check(t, u.Unlink(parentOf(path), filepath.Base(path)))
		delete(want, path)
	default:
		if len(to) > len(path) && to[:len(path)+1] == path+"/" {
			return // into itself
		}
		check(t, u.Rename(parentOf(path), filepath.Base(path), parentOf(to), filepath.Base(to), 0))
		for _, p := range paths {
			if p == path || len(p) > len(path) && p[:len(path)+1] == path+"/" {
				want[to+p[len(path):]] = want[p]
				delete(want, p)
			}
		}
	}
}

// TestMarksAtOnce: a directory of the upper may be marked for two things at once,
// and a whiteout that is a file is one.
func TestMarksAtOnce(t *testing.T) {
	const dirs = 200
	low := t.TempDir()
	for i := range dirs {
		write(t, low, fmt.Sprint(i, "/a"), fmt.Sprint(i, "/b"))
	}
	u, err := New(Config{Lowers: []Layer{lay(t, low)}, Upper: t.TempDir(), Work: t.TempDir(), Volatile: true, NoDevices: true})
	check(t, err)
	defer u.Close()
	mode := uint32(0o600)
	for i := range dirs {
		d, a := walk(t, u, fmt.Sprint(i)), walk(t, u, fmt.Sprint(i, "/a"))
		check(t, u.copyUp(d, -1))
		var both sync.WaitGroup
		var errs [2]error
		both.Go(func() { errs[0] = u.Setattr(a, SetAttr{Mode: &mode}) })
		both.Go(func() { errs[1] = u.Unlink(d, "b") })
		both.Wait()
		check(t, errs[0])
		check(t, errs[1])
		if _, err := u.Lookup(d, "b"); err != unix.ENOENT {
			t.Fatalf("directory %d: a removed name: %v", i, err)
		}
		const want = markOrigins | markXWhiteouts
		if m := d.dir().upper.Load().mark(u); m&want != want {
			t.Fatalf("directory %d: marks %b are not all of %b", i, m, want)
		}
	}
}

// TestKernelRedirect: a directory that the kernel has renamed is listed with the number
// that it has, its topmost lower's.
func TestKernelRedirect(t *testing.T) {
	if !realRoot() {
		t.Skip("only real root may read redirects")
	}
	low, upper := t.TempDir(), t.TempDir()
	write(t, low, "old/file")
	write(t, upper, "new/")
	check(t, unix.Setxattr(filepath.Join(upper, "new"), trustedPrefix+redirectAttr, []byte("old"), 0))
	check(t, unix.Setxattr(upper, trustedPrefix+impureAttr, []byte("y"), 0))
	u, err := New(Config{Lowers: []Layer{lay(t, low)}, Upper: upper, Work: t.TempDir()})
	check(t, err)
	defer u.Close()
	all := map[string]uint64{}
	numbers(t, u, u.Root(), "", all)
	if all["/new/file"] == 0 {
		t.Errorf("the redirect is not followed: %v", all)
	}
}
