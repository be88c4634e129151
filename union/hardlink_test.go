package union

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// TestLinkCountWithoutIndex: of a file that was copied up under one name, another
// is removed before it was looked up.
func TestLinkCountWithoutIndex(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a")
	check(t, os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")))
	u, _ := open(t, Layer{Path: dir})
	walk(t, u, "a")
	n := walk(t, u, "b")
	check(t, u.Write(n, []byte("new"), 0, false))
	wantLinks(t, u, n, 2)
	check(t, u.Unlink(u.Root(), "a"))
	wantLinks(t, u, n, 1)
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

// A linkModel is what a few files with several names should be.
type linkModel struct {
	t     *testing.T
	r     *rand.Rand
	u     *Union
	names map[string]*linkedFile // by path, DIR/NAME
	held  []heldFile
	log   []string
}

type linkedFile struct{ text string }

// A heldFile is one that somebody has open.
type heldFile struct {
	n *Node
	f *linkedFile
}

// TestHardLinksAtRandom does random operations on files with several names, of
// a layer with an index, and compares each outcome with what should be; then
// mounts again, with the index and without. Between two comparisons names are
// not looked at but by the operations.
func TestHardLinksAtRandom(t *testing.T) {
	for seed := range uint64(60) {
		base := t.TempDir()
		low, top := filepath.Join(base, "low"), filepath.Join(base, "top")
		m := &linkModel{t: t, r: rand.New(rand.NewPCG(seed, 3)), names: map[string]*linkedFile{}}
		m.fill(low, top)
		c := Config{Lowers: []Layer{{Path: top}, {Path: low, Index: writeIndex(t, low)}}, Upper: filepath.Join(base, "upper"), Work: filepath.Join(base, "work")}
		for _, dir := range []string{c.Upper, c.Work} {
			check(t, os.Mkdir(dir, 0o755))
		}
		for range 6 {
			m.mount(c)
			for range m.r.IntN(12) {
				m.step()
				if m.r.IntN(4) == 0 {
					m.compare("")
				}
			}
			m.release()
			m.u.Close()
		}
		m.mount(c)
		m.compare("after a remount")
		m.u.Close()
		c.Lowers[1].Index = ""
		m.mount(c)
		m.compare("after a remount without the index")
		m.u.Close()
		if t.Failed() {
			t.Fatalf("seed %d:\n%s", seed, strings.Join(m.log, "\n"))
		}
	}
}

func (m *linkModel) mount(c Config) {
	u, err := New(c)
	if err != nil {
		m.t.Fatal(err)
	}
	m.u = u
	m.log = append(m.log, "mount")
}

// fill makes four files with names in three directories, of which the upper
// one of two layers hides some.
func (m *linkModel) fill(low, top string) {
	for d := range 3 {
		write(m.t, low, fmt.Sprintf("d%d/", d))
		write(m.t, top, fmt.Sprintf("d%d/", d))
	}
	var first [4]string
	for d := range 3 {
		for k := range 5 {
			name := fmt.Sprintf("d%d/f%d", d, k)
			file := m.r.IntN(len(first))
			if first[file] == "" {
				first[file] = name
				write(m.t, low, name)
				m.names[name] = &linkedFile{name}
			} else {
				check(m.t, os.Link(filepath.Join(low, first[file]), filepath.Join(low, name)))
				m.names[name] = m.names[first[file]]
			}
		}
	}
	for d := range 3 {
		name := fmt.Sprintf("d%d/f%d", d, m.r.IntN(5))
		if d > 0 {
			write(m.t, top, name)
			m.names[name] = &linkedFile{name}
		}
	}
}

func (m *linkModel) any() string {
	return slices.Sorted(maps.Keys(m.names))[m.r.IntN(len(m.names))]
}

// lookup returns the directory and node of a path; the caller forgets both.
func (m *linkModel) lookup(path string) (dir *Node, name string, n *Node) {
	m.t.Helper()
	d, name, _ := strings.Cut(path, "/")
	dir, err := m.u.Lookup(m.u.Root(), d)
	if err != nil {
		m.t.Fatal(path, err, m.log)
	}
	n, err = m.u.Lookup(dir, name)
	if err != nil && err != unix.ENOENT {
		m.t.Fatal(path, err, m.log)
	}
	return dir, name, n
}

func (m *linkModel) forget(nodes ...*Node) {
	for _, n := range nodes {
		if n != nil {
			m.u.Forget(n, 1)
		}
	}
}

func (m *linkModel) append(n *Node, f *linkedFile) {
	err := m.u.Write(n, []byte("+"), int64(len(f.text)), false)
	f.text += "+"
	m.did("append", err)
}

func (m *linkModel) did(what string, err error) {
	m.t.Helper()
	m.log = append(m.log, what)
	if err != nil {
		m.t.Errorf("%s: %v", what, err)
	}
}

func (m *linkModel) step() {
	if len(m.names) < 3 {
		return
	}
	path := m.any()
	f := m.names[path]
	dir, name, n := m.lookup(path)
	defer m.forget(dir, n)
	switch m.r.IntN(8) {
	case 0, 1:
		m.log = append(m.log, path)
		m.append(n, f)
	case 2:
		mode := uint32(0o600)
		m.did("chmod "+path, m.u.Setattr(n, SetAttr{Mode: &mode}))
	case 3:
		m.did("unlink "+path, m.u.Unlink(dir, name))
		delete(m.names, path)
	case 4, 5:
		to := fmt.Sprintf("d%d/f%d", m.r.IntN(3), m.r.IntN(9))
		toDir, toName, toNode := m.lookup(to)
		defer m.forget(toDir, toNode)
		if m.r.IntN(2) == 0 && toNode == nil {
			_, err := m.u.Link(n, toDir, toName)
			m.did("link "+path+" "+to, err)
			m.names[to] = f
			return
		}
		m.did("rename "+path+" "+to, m.u.Rename(dir, name, toDir, toName, 0))
		if m.names[to] != f {
			delete(m.names, path)
			m.names[to] = f
		}
	case 6:
		n.hold()
		m.held = append(m.held, heldFile{n, f})
		m.log = append(m.log, "open "+path)
	case 7:
		if len(m.held) > 0 {
			h := m.held[m.r.IntN(len(m.held))]
			m.log = append(m.log, "an open file")
			m.append(h.n, h.f)
		}
	}
}

func (m *linkModel) release() {
	for _, h := range m.held {
		m.u.Forget(h.n, 1)
	}
	m.held = nil
}

// compare looks all names up. The links of a file of the upper are its names.
func (m *linkModel) compare(when string) {
	m.t.Helper()
	count := map[*linkedFile]int{}
	for _, f := range m.names {
		count[f]++
	}
	nodes := map[*linkedFile]*Node{}
	var all []*Node
	for d := range 3 {
		for k := range 9 {
			path := fmt.Sprintf("d%d/f%d", d, k)
			dir, _, n := m.lookup(path)
			all = append(all, dir, n)
			f := m.names[path]
			if (f == nil) != (n == nil) {
				m.t.Errorf("%s %s is there: %v", when, path, n != nil)
			}
			if f == nil || n == nil {
				continue
			}
			if nodes[f] == nil {
				nodes[f] = n
			}
			if nodes[f] != n {
				m.t.Errorf("%s %s is another file", when, path)
			}
		}
	}
	for f, n := range nodes {
		var st unix.Stat_t
		err := m.u.Getattr(n, &st)
		buf := make([]byte, 1000)
		k, err2 := m.u.Read(n, buf, 0)
		if err != nil || err2 != nil || string(buf[:k]) != f.text {
			m.t.Errorf("%s %s: %q, not %q, %v, %v", when, n.name(), buf[:k], f.text, err, err2)
		}
		if n.inUpper() && int(st.Nlink) != count[f] {
			m.t.Errorf("%s %s: %d links, not %d", when, n.name(), st.Nlink, count[f])
		}
	}
	m.forget(all...)
	m.log = append(m.log, "compare")
}

// TestLinkNumbers: files that came apart have numbers of their own in a later mount,
// or who archives them takes them for one; a file that stayed one keeps its number.
func TestLinkNumbers(t *testing.T) {
	for _, withIndex := range []bool{false, true} {
		dir := t.TempDir()
		write(t, dir, "a")
		check(t, os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")))
		c := Config{Lowers: []Layer{{Path: dir}}, Upper: t.TempDir(), Work: t.TempDir()}
		if withIndex {
			c.Lowers[0].Index = writeIndex(t, dir)
		}
		u, err := New(c)
		check(t, err)
		n := walk(t, u, "a")
		was := n.Ino()
		check(t, u.Write(n, []byte("new"), 0, false))
		if b := walk(t, u, "b").Ino(); n.Ino() != was || b != was {
			t.Errorf("index %v: the number %d became %d and %d", withIndex, was, n.Ino(), b)
		}
		if !withIndex { // walk has linked it
			check(t, os.Remove(filepath.Join(c.Upper, "b")))
		}
		u.Close()
		u, err = New(c)
		check(t, err)
		a, b := walk(t, u, "a").Ino(), walk(t, u, "b").Ino()
		if withIndex && (a != was || b != was) || !withIndex && a == b {
			t.Errorf("index %v: mounted again the number %d is %d and %d", withIndex, was, a, b)
		}
		u.Close()
	}
}
