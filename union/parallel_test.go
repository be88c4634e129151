package union

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestParallelClients: many at once do everything to a few names, and nothing
// comes of it but what one after the other could have done: no other errors, no
// node left when all lookups are given back, and a new union of the same layers
// shows the same tree. With -race no data is shared without care.
func TestParallelClients(t *testing.T) {
	lowers := []Layer{{Path: t.TempDir()}, {Path: t.TempDir()}}
	for i, l := range lowers {
		for _, dir := range []string{"a", "b", "c"} {
			write(t, l.Path, dir+"/", fmt.Sprint(dir, "/a/", i), dir+"/b", fmt.Sprint(dir, "/c", i))
		}
	}
	for i, l := range lowers {
		lowers[i] = lay(t, l.Path)
	}
	upper, work := t.TempDir(), t.TempDir()
	config := Config{Lowers: lowers, Upper: upper, Work: work}
	u, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	u.fds.max.Store(20) // descriptors come and go
	var wg sync.WaitGroup
	var names sync.RWMutex
	for i := range 8 {
		wg.Go(func() {
			c := client{t: t, u: u, names: &names, r: rand.New(rand.NewPCG(uint64(i), 7))}
			for range 1500 {
				c.step()
			}
			for _, n := range c.kept {
				u.Forget(n, 1)
			}
		})
	}
	wg.Wait()
	if n := u.table.ids.count; n != 1 {
		t.Errorf("%d nodes are left", n)
	}
	was := tree(t, u, u.Root(), "")
	u.Close()
	if u, err = New(config); err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	is := tree(t, u, u.Root(), "")
	for i := range max(len(was), len(is)) {
		if i >= len(was) || i >= len(is) || was[i] != is[i] {
			t.Fatalf("there was\n%s\nand is\n%s", strings.Join(was[i:], "\n"), strings.Join(is[i:], "\n"))
		}
	}
}

// A client does operations as the kernel lets them through: names are looked
// up and changed under a lock (here one for all directories), but not in a
// directory that was removed, and directories are renamed where they are.
type client struct {
	t     *testing.T
	u     *Union
	names *sync.RWMutex
	r     *rand.Rand
	kept  []*Node
}

func (c *client) lookup(dir *Node, name string) (*Node, error) {
	c.names.RLock()
	defer c.names.RUnlock()
	if isGone(dir) {
		return nil, unix.ENOENT
	}
	return c.u.Lookup(dir, name)
}

func isGone(n *Node) bool {
	n.loc.Lock()
	defer n.loc.Unlock()
	return n.gone
}

// change calls f, which changes names in directories, unless one of them is
// gone.
func (c *client) change(what string, f func() error, dirs ...*Node) {
	c.names.Lock()
	defer c.names.Unlock()
	for _, n := range dirs {
		if isGone(n) {
			return
		}
	}
	c.check(what, f())
}

// plain are the errors that others' operations may cause.
var plain = []syscall.Errno{
	unix.ENOENT, unix.EEXIST, unix.ENOTEMPTY, unix.ENOTDIR, unix.EISDIR, unix.EINVAL, unix.EPERM, unix.ENODATA, unix.ENXIO, unix.ESTALE,
}

func (c *client) check(what string, err error) {
	if err == nil {
		return
	}
	for _, e := range plain {
		if errors.Is(err, e) {
			return
		}
	}
	c.t.Errorf("%s: %v", what, err)
}

func (c *client) name() string { return string("abcdef"[c.r.IntN(6)]) }

// dir returns a directory, held: the root, or one below it.
func (c *client) dir() *Node {
	n := c.u.Root()
	for range c.r.IntN(3) {
		child, err := c.lookup(n, c.name())
		if err == nil && !child.IsDir() {
			c.u.Forget(child, 1)
			err = unix.ENOTDIR
		}
		if err != nil {
			c.check("lookup", err)
			break
		}
		c.u.Forget(n, 1)
		n = child
	}
	return n
}

func (c *client) step() {
	u, r := c.u, c.r
	dir, other := c.dir(), c.dir()
	defer u.Forget(dir, 1)
	defer u.Forget(other, 1)
	name, mode := c.name(), Creation{Mode: 0o755}
	made := func(n *Node, _ *unix.Stat_t, err error) error {
		if err == nil {
			u.Forget(n, 1)
		}
		return err
	}
	switch r.IntN(12) {
	case 0:
		c.change("create", func() error { return made(u.Create(dir, name, mode)) }, dir)
	case 1:
		c.change("mkdir", func() error { return made(u.Mkdir(dir, name, mode)) }, dir)
	case 2:
		c.change("symlink", func() error { return made(u.Symlink(dir, name, "target", mode)) }, dir)
	case 3:
		c.change("unlink", func() error { return u.Unlink(dir, name) }, dir)
	case 4:
		c.change("rmdir", func() error { return u.Rmdir(dir, name) }, dir)
	case 5, 6:
		c.change("rename", func() error { return c.rename(dir, name, other) }, dir, other)
	case 7:
		c.names.RLock()
		_, err := u.ReadDir(dir)
		c.names.RUnlock()
		c.check("list", err)
	default:
		n, err := c.lookup(dir, name)
		c.check("lookup", err)
		if err == nil {
			c.use(n, other)
		}
	}
}

// rename moves a file anywhere and a directory within its own.
func (c *client) rename(dir *Node, name string, other *Node) error {
	n, err := c.u.Lookup(dir, name)
	if err != nil {
		return err
	}
	if n.IsDir() {
		other = dir
	}
	c.u.Forget(n, 1)
	return c.u.Rename(dir, name, other, c.name(), []uint{0, unix.RENAME_NOREPLACE}[c.r.IntN(2)])
}

// use does something with n and gives it back, now or later.
func (c *client) use(n, dir *Node) {
	u, r := c.u, c.r
	mode, size := uint32(0o700+r.IntN(0o100)), int64(r.IntN(5000))
	var st unix.Stat_t
	switch k := r.IntN(9); {
	case k == 0 && n.Type() != unix.S_IFLNK:
		c.check("chmod", u.Setattr(n, SetAttr{Mode: &mode}))
	case k == 1:
		c.check("setxattr", u.Setxattr(n, "user.x", []byte("x"), 0))
	case k == 2:
		c.check("stat", u.Getattr(n, &st))
	case n.Type() != unix.S_IFREG:
	case k == 3:
		c.change("link", func() error {
			_, err := u.Link(n, dir, c.name())
			if err == nil {
				u.Forget(n, 1)
			}
			return err
		}, dir, n)
	case k == 4:
		c.check("truncate", u.Setattr(n, SetAttr{Size: &size}))
	case k < 7:
		c.check("write", u.Write(n, []byte("written"), size, false))
	default:
		c.check("read", err2(u.Read(n, make([]byte, 100), 0)))
	}
	if c.kept = append(c.kept, n); len(c.kept) > 20 {
		u.Forget(c.kept[0], 1)
		c.kept = c.kept[1:]
	}
}

func err2[T any](_ T, err error) error { return err }

// tree describes what is below dir.
func tree(t *testing.T, u *Union, dir *Node, path string) []string {
	t.Helper()
	ents, err := u.ReadDir(dir)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	var all []string
	for _, e := range ents {
		var st unix.Stat_t
		n, err := u.LookupStat(dir, e.Name, &st)
		if err != nil {
			t.Errorf("%s/%s is listed: %v", path, e.Name, err)
			continue
		}
		line := fmt.Sprintf("%s/%s %o", path, e.Name, st.Mode)
		if n.Type() == unix.S_IFREG {
			buf := make([]byte, 6000)
			k, err := u.Read(n, buf, 0)
			line += fmt.Sprintf(" %v %x", err, sha256.Sum256(buf[:k]))
		}
		all = append(all, line)
		if n.IsDir() {
			all = append(all, tree(t, u, n, path+"/"+e.Name)...)
		}
		u.Forget(n, 1)
	}
	sort.Strings(all)
	return all
}

// TestNewNodesAtOnce: whoever looks up a name that nobody has looked up before
// gets the node with its number, also if others do so at the same moment.
func TestNewNodesAtOnce(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "f")
	u, _ := open(t, Layer{Path: dir})
	for range 2000 {
		var start, wg sync.WaitGroup
		start.Add(1)
		for range 4 {
			wg.Go(func() {
				start.Wait()
				n, err := u.Lookup(u.Root(), "f")
				if err != nil {
					t.Error(err)
					return
				}
				if id, _ := n.ID(); u.ByID(id) != n {
					t.Errorf("number %d is not the node's", id)
				}
				u.Forget(n, 1)
			})
		}
		start.Done()
		wg.Wait()
	}
}

// TestLookupWhileCopiedUp: a file or directory that is found while it is copied
// up is the same node as before and after.
func TestLookupWhileCopiedUp(t *testing.T) {
	dir := t.TempDir()
	const files = 1000
	for i := range files {
		write(t, dir, fmt.Sprintf("d%d/f", i))
	}
	u, _ := open(t, Layer{Path: dir})
	for i := range files {
		d := walk(t, u, fmt.Sprint("d", i))
		n := walk(t, u, fmt.Sprintf("d%d/f", i))
		done := make(chan error)
		go func() { done <- u.Write(n, []byte("x"), 0, false) }()
		for found := false; !found; {
			select {
			case err := <-done:
				check(t, err)
				found = true // once more, afterwards
			default:
			}
			sameNode(t, u, u.Root(), fmt.Sprint("d", i), d)
			sameNode(t, u, d, "f", n)
		}
	}
}

// TestFoundByTwo: of two who find a file at the same time, for the first time,
// one writes to it, and both have the same node.
func TestFoundByTwo(t *testing.T) {
	dir := t.TempDir()
	const files = 3000
	for i := range files {
		write(t, dir, fmt.Sprint("f", i))
	}
	u, _ := open(t, Layer{Path: dir})
	for i := range files {
		name := fmt.Sprint("f", i)
		var wrote *Node
		var wg sync.WaitGroup
		wg.Go(func() {
			var err error
			if wrote, err = u.Lookup(u.Root(), name); err == nil {
				err = u.Write(wrote, []byte("x"), 0, false)
			}
			if err != nil {
				t.Error(err)
			}
		})
		n, err := u.Lookup(u.Root(), name)
		wg.Wait()
		check(t, err)
		if n != wrote {
			t.Fatalf("%s is two nodes", name)
		}
	}
}

func sameNode(t *testing.T, u *Union, dir *Node, name string, want *Node) {
	t.Helper()
	n, err := u.Lookup(dir, name)
	check(t, err)
	if n != want {
		t.Fatalf("%s is another node", name)
	}
	u.Forget(n, 1)
}
