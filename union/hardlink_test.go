package union

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// linked makes a lower layer with an index in which one file has the names
// d0/f to d9/f, and "out" outside of the layer.
func linked(t *testing.T) (u *Union, upper string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layer")
	write(t, dir, "d0/f")
	for i := 1; i < 10; i++ {
		write(t, dir, fmt.Sprintf("d%d/", i))
		check(t, os.Link(filepath.Join(dir, "d0/f"), filepath.Join(dir, fmt.Sprintf("d%d/f", i))))
	}
	check(t, os.Link(filepath.Join(dir, "d0/f"), filepath.Join(filepath.Dir(dir), "out")))
	return open(t, Layer{Path: dir, Index: writeIndex(t, dir)})
}

func wantLinks(t *testing.T, u *Union, n *Node, want int) {
	t.Helper()
	var st unix.Stat_t
	if err := u.Getattr(n, &st); err != nil || int(st.Nlink) != want {
		t.Errorf("%d links, not %d, %v", st.Nlink, want, err)
	}
}

// TestLinkCounts: once the file lies in the upper its links are those that show.
func TestLinkCounts(t *testing.T) {
	u, upper := linked(t)
	check(t, u.Unlink(walk(t, u, "d9"), "f"))
	n := walk(t, u, "d5/f")
	check(t, u.Write(n, []byte("new"), 0, false))
	wantLinks(t, u, n, 9)
	for i := range 9 {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(upper, fmt.Sprintf("d%d/f", i)), &st); err != nil || st.Ino != n.key.ino {
			t.Errorf("d%d/f in the upper: %d, not %d, %v", i, st.Ino, n.key.ino, err)
		}
	}
	check(t, u.Unlink(walk(t, u, "d5"), "f"))
	wantLinks(t, u, n, 8)
	_, err := u.Link(n, u.Root(), "another")
	check(t, err)
	wantLinks(t, u, n, 9)
	for i := range 9 {
		if i != 5 {
			check(t, u.Unlink(walk(t, u, fmt.Sprint("d", i)), "f"))
		}
	}
	wantLinks(t, u, n, 1)
	// Nothing keeps the node but those who look at it.
	refs := n.refs.Load()
	id, _ := n.ID()
	if u.Forget(n, uint64(refs)); u.ByID(id) != nil {
		t.Error("the node is still there")
	}
}

// TestUnlinkedHardLink: a file that lost the name under which it was opened is
// copied up to the others that it has.
func TestUnlinkedHardLink(t *testing.T) {
	u, upper := linked(t)
	n := walk(t, u, "d0/f")
	check(t, u.Unlink(walk(t, u, "d0"), "f"))
	check(t, u.Write(n, []byte("new"), 0, false))
	wantLinks(t, u, n, 9)
	if text, err := os.ReadFile(filepath.Join(upper, "d7/f")); string(text) != "newf" {
		t.Errorf("d7/f in the upper: %q, %v", text, err)
	}
	if left, _ := os.ReadDir(fdPath(u.workFD())); len(left) > 1 { // the whiteout that others are links of
		t.Errorf("left in the work directory: %v", left)
	}
}

// TestHardLinksRace: names are removed, and looked up, while the file is copied
// up and linked.
func TestHardLinksRace(t *testing.T) {
	for range 30 {
		u, upper := linked(t)
		n := walk(t, u, "d5/f")
		var wg sync.WaitGroup
		for i := range 10 {
			dir := walk(t, u, fmt.Sprint("d", i))
			wg.Go(func() {
				switch {
				case i == 5:
					if err := u.Write(n, []byte("new"), 0, false); err != nil {
						t.Error(err)
					}
				case i%2 == 0:
					if err := u.Unlink(dir, "f"); err != nil {
						t.Error(err)
					}
				default:
					c, err := u.Lookup(dir, "f")
					if err != nil || c != n {
						t.Errorf("another node, %v", err)
					}
				}
			})
		}
		wg.Wait()
		wantLinks(t, u, n, 5)
		for i := range 10 {
			var st unix.Stat_t
			err := unix.Lstat(filepath.Join(upper, fmt.Sprintf("d%d/f", i)), &st)
			if shows := err == nil && st.Ino == n.key.ino; shows != (i%2 != 0) {
				t.Errorf("d%d/f in the upper: %v, %v", i, shows, err)
			}
		}
		u.Close()
	}
}
