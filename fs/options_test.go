package fs_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"plash/fs"
	"plash/internal/usertest"
)

func owner(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

func TestMappedOwners(t *testing.T) {
	if os.Getenv("PLASH_TEST_USER") == "one id" {
		t.Skip("the owners have no numbers here")
	}
	s := newStack(t, 1)
	fill(t, s.lowers[0], tree("a", "b", "c"))
	for name, id := range map[string]int{"a": 0, "b": 12, "c": 900} {
		if err := os.Chown(filepath.Join(s.lowers[0], name), id, id); err != nil {
			t.Fatal(err)
		}
	}
	s.change = func(c *serveConfig) {
		c.Serve.UIDs = []fs.IDRange{{Stored: 0, Shown: 1000, Count: 1}, {Stored: 10, Shown: 2000, Count: 10}}
		c.Serve.GIDs = []fs.IDRange{{Stored: 0, Shown: 0, Count: 100}}
	}
	s.mount()
	for name, want := range map[string]string{"a": "1000:0", "b": "2002:12", "c": "65534:65534"} {
		if got := owner(t, s.path(name)); got != want {
			t.Errorf("%s is shown as %s, not %s", name, got, want)
		}
	}
	if err := os.Chown(s.path("a"), 2005, 7); err != nil {
		t.Error(err)
	}
	if got := owner(t, filepath.Join(s.upper, "a")); got != "15:7" {
		t.Errorf("2005:7 is stored as %s", got)
	}
	if err := os.Chown(s.path("a"), 5, -1); !errors.Is(err, unix.EINVAL) {
		t.Errorf("an owner that the mapping does not have: %v", err)
	}
	// Root, who asks, is not mapped.
	if err := os.WriteFile(s.path("new"), nil, 0o644); !errors.Is(err, unix.EOVERFLOW) {
		t.Errorf("a file of an owner that the mapping does not have: %v", err)
	}
	// An ACL's ids are translated, too.
	acl := []byte("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xd2\x07\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x06\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff")
	if err := unix.Setxattr(s.path("b"), "system.posix_acl_access", acl, 0); err != nil {
		t.Skipf("no ACLs here: %v", err)
	}
	buf := make([]byte, 100)
	n, err := unix.Getxattr(filepath.Join(s.upper, "b"), "system.posix_acl_access", buf)
	if want := strings.Replace(string(acl), "\xd2\x07", "\x0c\x00", 1); err != nil || string(buf[:n]) != want {
		t.Errorf("the stored ACL is %x, %v", buf[:n], err)
	}
}

func TestSquashedOwners(t *testing.T) {
	if os.Getenv("PLASH_TEST_USER") == "one id" {
		t.Skip("the owner has no number here")
	}
	s := newStack(t, 1)
	fill(t, s.lowers[0], tree("a", "dir/"))
	uid, gid := uint32(77), uint32(0)
	s.change = func(c *serveConfig) { c.Serve.SquashUID, c.Serve.SquashGID = &uid, &gid }
	s.mount()
	if err := os.WriteFile(s.path("new"), nil, 0o644); err != nil {
		t.Error(err)
	}
	for _, name := range []string{".", "a", "dir", "new"} {
		if got := owner(t, s.path(name)); got != "77:0" {
			t.Errorf("%s is shown as %s", name, got)
		}
	}
	if got := owner(t, filepath.Join(s.upper, "new")); got != "0:0" {
		t.Errorf("what root makes is stored as %s", got)
	}
}

// TestTimeout: with a short one, what changes behind our back is seen.
func TestTimeout(t *testing.T) {
	s := newStack(t, 1)
	fill(t, s.lowers[0], tree("dir/f"))
	none := time.Duration(0)
	s.change = func(c *serveConfig) { c.Serve.Timeout = &none }
	s.mount()
	if _, err := os.Stat(s.path("dir/f")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(s.lowers[0], "dir/f"), 0o741); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(s.path("dir/f")); err != nil || info.Mode().Perm() != 0o741 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

func TestNoXattrsAndACLs(t *testing.T) {
	s := newStack(t, 1)
	fill(t, s.lowers[0], tree("f"))
	setxattr(t, filepath.Join(s.lowers[0], "f"), "user.x", "1")
	s.change = func(c *serveConfig) { c.Serve.NoXattrs = true }
	s.mount()
	if _, err := unix.Getxattr(s.path("f"), "user.x", nil); err != unix.EOPNOTSUPP {
		t.Errorf("getxattr: %v", err)
	}
	if err := unix.Setxattr(s.path("f"), "user.y", nil, 0); err != unix.EOPNOTSUPP {
		t.Errorf("setxattr: %v", err)
	}
	s.change = func(c *serveConfig) { c.Serve.NoACL = true }
	s.remount()
	acl := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x04\x00\x04\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"
	if err := unix.Setxattr(s.path("f"), "system.posix_acl_access", []byte(acl), 0); err != unix.EOPNOTSUPP {
		t.Errorf("an ACL: %v", err)
	}
	if _, err := unix.Getxattr(s.path("f"), "user.x", nil); err != nil {
		t.Errorf("without ACLs, other attributes: %v", err)
	}
}

func TestStaticNlink(t *testing.T) {
	s := newStack(t, 1)
	fill(t, s.lowers[0], tree("dir/a/", "dir/b/"))
	s.change = func(c *serveConfig) { c.Serve.StaticNlink = true }
	s.mount()
	var st unix.Stat_t
	if err := unix.Stat(s.path("dir"), &st); err != nil || st.Nlink != 1 {
		t.Errorf("%d links, %v", st.Nlink, err)
	}
}

// TestCopyUpAtOpen: opened for writing, a file lies in the upper at once, as in
// kernel overlayfs; a large one when it is written.
func TestCopyUpAtOpen(t *testing.T) {
	s := newStack(t, 1)
	fill(t, s.lowers[0], tree("small: text", "read: text", "large: "+strings.Repeat("x", 2<<20)))
	s.change = func(c *serveConfig) { c.Serve.Opens = true }
	s.mount()
	inUpper := func(name string) bool {
		_, err := os.Stat(filepath.Join(s.upper, name))
		return err == nil
	}
	for name, flags := range map[string]int{"small": os.O_WRONLY, "read": os.O_RDONLY, "large": os.O_RDWR} {
		f, err := os.OpenFile(s.path(name), flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := inUpper(name); got != (name == "small") {
			t.Errorf("%s is in the upper: %v", name, got)
		}
		if name == "large" {
			if _, err := f.WriteAt([]byte("y"), 1<<20); err != nil {
				t.Error(err)
			}
		}
		f.Close()
	}
	// After many, the kernel asks no more, and all goes on as without.
	for i := range 1100 {
		f, err := os.OpenFile(s.path("read"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(i, err)
		}
		f.Close()
	}
	b, err := os.ReadFile(s.path("large"))
	if err != nil || len(b) != 2<<20 || b[1<<20] != 'y' {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if err := os.WriteFile(s.path("read"), []byte("new"), 0o644); err != nil {
		t.Error(err)
	}
	s.remount()
	if b, err := os.ReadFile(s.path("read")); err != nil || string(b) != "new" {
		t.Errorf("%q %v", b, err)
	}
}

// smallUpper lets the stack's upper and work directory lie on a tmpfs with
// these options.
func (s *stack) smallUpper(options string) {
	s.t.Helper()
	dir := filepath.Join(s.base, "small")
	mkdirs(s.t, dir)
	if err := unix.Mount("small", dir, "tmpfs", 0, options); err != nil {
		s.t.Skipf("no tmpfs with %s here: %v", options, err)
	}
	s.t.Cleanup(func() {
		s.unmount()
		unix.Unmount(dir, unix.MNT_DETACH)
	})
	s.upper = filepath.Join(dir, "upper")
	mkdirs(s.t, s.upper, filepath.Join(dir, "work"))
	if err := unix.Setxattr(s.upper, "user.x", nil, 0); err != nil && usertest.Active() {
		s.t.Skipf("a tmpfs without user attributes: %v", err)
	}
}

// TestFullDisk: without the writeback cache write(2) says that there is no
// room, with it close(2) or fsync(2) does; a copy-up says so at once. What was
// there before stays.
func TestFullDisk(t *testing.T) {
	for _, through := range []bool{false, true} {
		s := newStack(t, 1)
		fill(t, s.lowers[0], tree("big: "+strings.Repeat("b", 3<<20), "low: text"))
		s.smallUpper("size=2m")
		s.change = func(c *serveConfig) {
			c.Work, c.Serve.WriteThrough = filepath.Join(filepath.Dir(s.upper), "work"), through
		}
		s.mount()
		tooMuch(t, s.path("new"), through, unix.ENOSPC)
		if err := os.Truncate(s.path("new"), 0); err != nil {
			t.Error(err)
		}
		if err := os.Chmod(s.path("big"), 0o600); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("copy-up: %v", err)
		}
		if b, err := os.ReadFile(s.path("big")); err != nil || len(b) != 3<<20 {
			t.Errorf("after a copy-up that failed: %d bytes, %v", len(b), err)
		}
		if err := os.WriteFile(s.path("low"), []byte("fits"), 0o644); err != nil {
			t.Errorf("what fits: %v", err)
		}
		if left, _ := os.ReadDir(filepath.Join(filepath.Dir(s.upper), "work/work")); len(left) > 0 {
			t.Errorf("left over in the work directory: %v", left)
		}
	}
}

// tooMuch writes more than there is room for.
func tooMuch(t *testing.T, path string, through bool, want syscall.Errno) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	var at error
	chunk := make([]byte, 1<<16)
	for range 4 << 20 / len(chunk) {
		if _, at = f.Write(chunk); at != nil {
			break
		}
	}
	if through {
		if !errors.Is(at, want) {
			t.Errorf("write: %v, not %v", at, want)
		}
		f.Close()
		return
	}
	if at == nil {
		at = f.Sync()
	}
	if closed := f.Close(); at == nil {
		at = closed
	}
	if !errors.Is(at, want) {
		t.Errorf("write, fsync and close: %v, not %v", at, want)
	}
}

// TestWritingForEver: who writes without end to a full disk is told so, though the
// kernel collects writes. Other files can be written.
func TestWritingForEver(t *testing.T) {
	needTellsWriters(t)
	s := newStack(t, 1)
	s.smallUpper("size=2m")
	s.change = func(c *serveConfig) { c.Work = filepath.Join(filepath.Dir(s.upper), "work") }
	s.mount()
	f, err := os.Create(s.path("endless"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := make([]byte, 1<<20)
	for range 2 { // the second time, too
		written := 0
		for err = nil; err == nil && written < 1000; written++ {
			_, err = f.Write(chunk)
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("after %d MB: %v", written, err)
		}
	}
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path("other"), []byte("fits"), 0o644); err != nil {
		t.Errorf("another file: %v", err)
	}
}

// fullSoon returns a mount with an upper of 4 MB, half of which ballast takes.
func fullSoon(t *testing.T, through bool) (s *stack, ballast string) {
	t.Helper()
	s = newStack(t, 1)
	s.smallUpper("size=4m")
	s.change = func(c *serveConfig) {
		c.Work, c.Serve.WriteThrough = filepath.Join(filepath.Dir(s.upper), "work"), through
	}
	s.mount()
	ballast = filepath.Join(filepath.Dir(s.upper), "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	return s, ballast
}

// overflow returns a file of which fsync(2) has said that the disk is full. It has
// blocks at its start if there was room for one, whichever write was refused.
func overflow(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	for n := 4096; err == nil && n <= 4<<20; n <<= 10 {
		if _, err = f.Write(make([]byte, n)); err == nil {
			err = f.Sync()
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("more than there is room for: %v", err)
	}
	return f
}

// TestRefusedWrite: when a write was refused the next one fails, whoever looks at the
// file or changes it meanwhile; but not if there is more room, nor for ever, nor does
// anything else fail.
func TestRefusedWrite(t *testing.T) {
	needTellsWriters(t)
	s, ballast := fullSoon(t, false)
	path := s.path("a")
	over := func(f *os.File) error {
		_, err := f.WriteAt(make([]byte, 1000), 0) // where it has blocks
		return errors.Join(err, f.Sync())
	}
	for what, look := range map[string]func() error{
		"nothing": func() error { return nil },
		"stat":    func() error { askAttributes(t, path); return nil },
		"chtimes": func() error { return os.Chtimes(path, old, old) },
		"chmod":   func() error { return os.Chmod(path, 0o600) },
		"link":    func() error { return errors.Join(os.Link(path, s.path("link")), os.Remove(s.path("link"))) },
		"list":    func() error { return exec.Command("ls", "-l", s.mnt).Run() },
		"read": func() error {
			askAttributes(t, path)
			_, err := os.ReadFile(path)
			return err
		},
		"end": func() error {
			askAttributes(t, path)
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.Seek(0, io.SeekEnd)
			return err
		},
	} {
		a, err := refusedInTime(t, path, func() {
			if err := look(); err != nil {
				t.Errorf("%s while a write is refused: %v", what, err)
			}
		})
		if err != unix.ENOSPC {
			t.Errorf("a write after one that was refused and %s: %v", what, err)
		}
		if err := over(a); err != nil {
			t.Errorf("the one after that: %v", err)
		}
	}
	a := overflow(t, path)
	if err := a.Truncate(3 << 19); err != nil {
		t.Fatal(err)
	}
	if err := over(a); err != nil {
		t.Errorf("with half a MB more of room: %v", err)
	}
	a = overflow(t, path)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := over(a); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if err := os.WriteFile(ballast, make([]byte, 3<<19), 0o644); err != nil {
		t.Fatal(err)
	}
	a = overflow(t, path)
	time.Sleep(time.Second)
	overflow(t, s.path("b"))
	if err := over(a); err != nil {
		t.Errorf("later, when another file's write was refused: %v", err)
	}
}

// These are as in refused.go.
const (
	refusedFor = time.Second
	settles    = 50 * time.Millisecond
)

// refusedInTime lets a write to a new file at path be refused, calls f, and returns the
// file and what then becomes of writing to it where it has blocks: all that once more,
// some times at most, if it took so long that the refusal need not count any more.
func refusedInTime(t *testing.T, path string, f func()) (file *os.File, err error) {
	t.Helper()
	for range 5 {
		begin := time.Now()
		file = overflow(t, path)
		f()
		if err = refusedSoon(file); err != nil || time.Since(begin) < refusedFor*9/10 {
			break
		}
	}
	return file, err
}

// refusedSoon writes to f, where it has blocks, until that fails, at most some times.
func refusedSoon(f *os.File) error {
	for range 30 {
		time.Sleep(10 * time.Millisecond)
		if _, err := f.WriteAt(make([]byte, 1000), 0); err != nil {
			return errors.Unwrap(err)
		}
	}
	return nil
}

// TestRefusedOfAnother: a file that has the number of one that is gone can be written.
func TestRefusedOfAnother(t *testing.T) {
	s, ballast := fullSoon(t, false)
	a := overflow(t, s.path("a"))
	a.Close()
	if err := os.Remove(s.path("a")); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(ballast, make([]byte, 4<<20), 0o644) // there is as little room as before
	for i := range 4 {
		path := s.path(fmt.Sprint("new", i))
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		askAttributes(t, path)
		time.Sleep(5 * time.Millisecond)
		if _, err := f.Write([]byte("text")); err != nil {
			t.Errorf("another file: %v", err)
		}
	}
}

// TestRefusedTimeout: where the kernel may cache attributes for a time only, it asks for
// them to read past a file's end, too, and that does not fail; but writing does.
func TestRefusedTimeout(t *testing.T) {
	needTellsWriters(t)
	for _, timeout := range []time.Duration{0, 20 * time.Millisecond, 400 * time.Millisecond} {
		s, _ := fullSoon(t, false)
		serve := s.change
		s.change = func(c *serveConfig) { serve(c); c.Serve.Timeout = &timeout }
		s.remount()
		for range 3 {
			a, err := refusedInTime(t, s.path("a"), func() {
				var readers sync.WaitGroup
				for range 4 {
					f, err := os.Open(s.path("a"))
					if err != nil {
						t.Fatal(err)
					}
					readers.Go(func() {
						defer f.Close() // hands times on
						readPastEnd(t, f, 500*time.Millisecond)
					})
				}
				readers.Wait()
			})
			if err != unix.ENOSPC {
				t.Errorf("timeout %v: writing: %v", timeout, err)
			}
			if err := a.Truncate(0); err != nil {
				t.Error(err)
			}
		}
	}
}

// readPastEnd reads behind the end of f for some time. A request that takes longer than
// the server waits for such may be taken for a writer's.
func readPastEnd(t *testing.T, f *os.File, length time.Duration) {
	for start := time.Now(); time.Since(start) < length; time.Sleep(time.Millisecond) {
		begin := time.Now()
		_, err := f.ReadAt(make([]byte, 10), 100<<20)
		if err != io.EOF && time.Since(begin) < settles*9/10 {
			t.Errorf("reading: %v", err)
			return
		}
	}
}

// needTellsWriters skips the test where the kernel does not let a writer be told.
func needTellsWriters(t *testing.T) {
	t.Helper()
	if !kernelAtLeast(5, 16) {
		t.Skip("before Linux 5.16 reading asks for what writing does")
	}
}

// askAttributes has the server asked for the attributes of path.
func askAttributes(t *testing.T, path string) {
	t.Helper()
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st); err != nil {
		t.Fatal(err)
	}
}

// TestRefusedPage: without the writeback cache writes fail by themselves, and what was
// written through a mapping fails no reader.
func TestRefusedPage(t *testing.T) {
	s, _ := fullSoon(t, true)
	const size = 3_000_000
	f, err := os.Create(s.path("mapped"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	for i := range m {
		m[i] = 1
	}
	if err := unix.Msync(m, unix.MS_SYNC); err != unix.ENOSPC {
		t.Errorf("msync: %v", err)
	}
	if n, err := f.ReadAt(make([]byte, 100_000), size-50_000); n != 50_000 || err != io.EOF {
		t.Errorf("read to the end: %d, %v", n, err)
	}
	if at, err := f.Seek(0, io.SeekEnd); at != size || err != nil {
		t.Errorf("the end is %d, %v", at, err)
	}
}

// TestQuota: the same for a quota. It does not bind who may override it, as
// root may, so the server gives that right up.
func TestQuota(t *testing.T) {
	realRootOnly(t)
	for _, through := range []bool{false, true} {
		s := newStack(t, 1)
		s.smallUpper("usrquota,usrquota_block_hardlimit=1M")
		s.change = func(c *serveConfig) {
			c.Work, c.Serve.WriteThrough = filepath.Join(filepath.Dir(s.upper), "work"), through
			c.NoResource = true
		}
		s.mount()
		if err := os.WriteFile(s.path("f"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(s.path("f"), 1234, 1234); err != nil {
			t.Fatal(err)
		}
		tooMuch(t, s.path("f"), through, unix.EDQUOT)
	}
}

// TestManyNames: a directory of many names is listed whole, by one process in
// pieces and by another that seeks.
func TestManyNames(t *testing.T) {
	s := newStack(t, 2)
	const n = 30000
	for i := range n {
		path := filepath.Join(s.lowers[i%2], fmt.Sprintf("file%06d", i))
		if fd, err := unix.Open(path, unix.O_CREAT|unix.O_CLOEXEC, 0o644); err != nil {
			t.Fatal(err)
		} else {
			unix.Close(fd)
		}
	}
	s.mount()
	f, err := os.Open(s.mnt)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seen := map[string]int{}
	buf := make([]byte, 4096)
	for {
		k, err := unix.Getdents(int(f.Fd()), buf)
		if err != nil || k == 0 {
			break
		}
		_, _, list := unix.ParseDirent(buf[:k], -1, nil)
		for _, name := range list {
			seen[name]++
		}
		if len(seen)%100 == 0 { // tell and go back there
			at, _ := unix.Seek(int(f.Fd()), 0, 1)
			unix.Seek(int(f.Fd()), 0, 0)
			unix.Getdents(int(f.Fd()), buf)
			unix.Seek(int(f.Fd()), at, 0)
		}
	}
	if len(seen) != n {
		t.Errorf("%d names of %d", len(seen), n)
	}
	for name, times := range seen {
		if times != 1 {
			t.Errorf("%s came %d times", name, times)
		}
	}
}

// TestReadAhead: real root's mounts read ahead as much as a request can carry.
func TestReadAhead(t *testing.T) {
	realRootOnly(t)
	s := newStack(t, 1)
	s.mount()
	var st unix.Stat_t
	if err := unix.Stat(s.mnt, &st); err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev))
	if info, err := os.Stat(path); err != nil || info.Mode()&0o200 == 0 {
		t.Skip("no /sys to write to")
	}
	if kb, err := os.ReadFile(path); err != nil || string(kb) != fmt.Sprint(1024-os.Getpagesize()>>10, "\n") {
		t.Errorf("%s: %q, %v", path, kb, err)
	}
}
