package fs_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Files that are open: without a name, locked, shared, executed.

var openCases = map[string]func(r *run){
	"sockets": func(r *run) {
		l, err := net.Listen("unix", r.path("bound"))
		r.do("bind", err)
		defer l.Close()
		r.stat("bound")
		go func() {
			if c, err := l.Accept(); err == nil {
				c.Write([]byte("hello"))
				c.Close()
			}
		}()
		r.do("rename", os.Rename(r.path("bound"), r.path("renamed")))
		c, err := net.Dial("unix", r.path("renamed"))
		r.do("connect", err)
		buf := make([]byte, 10)
		n, _ := c.Read(buf)
		r.note("data", string(buf[:n]))
		c.Close()
		_, err = net.Dial("unix", r.path("sock")) // nobody listens
		r.do("connect to the lower one", err)
	},
	"an unlinked device": func(r *run) {
		if err := unix.Mknod(r.path("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
			r.do("mknod", err)
			return
		}
		fd, err := unix.Open(r.path("null"), unix.O_RDWR, 0)
		r.do("open", err)
		r.do("unlink", unix.Unlink(r.path("null")))
		n, err := unix.Write(fd, []byte("away"))
		r.do("write", err)
		r.note("written", n)
		r.fstat("null", fd)
		unix.Close(fd)
	},
	"flock and fcntl locks": func(r *run) {
		for _, name := range []string{"file", "top"} {
			a, err := os.OpenFile(r.path(name), os.O_RDWR, 0)
			r.do("open", err)
			b, err := os.OpenFile(r.path(name), os.O_RDWR, 0)
			r.do("open", err)
			r.do("lock", unix.Flock(int(a.Fd()), unix.LOCK_EX|unix.LOCK_NB))
			r.do("lock again", unix.Flock(int(b.Fd()), unix.LOCK_SH|unix.LOCK_NB))
			_, err = a.WriteString("copied up meanwhile")
			r.do("write", err)
			r.do("lock after the copy-up", unix.Flock(int(b.Fd()), unix.LOCK_SH|unix.LOCK_NB))
			r.do("rename", os.Rename(r.path(name), r.path(name+"2")))
			r.do("lock after the rename", unix.Flock(int(b.Fd()), unix.LOCK_SH|unix.LOCK_NB))
			r.do("unlock", unix.Flock(int(a.Fd()), unix.LOCK_UN))
			r.do("lock then", unix.Flock(int(b.Fd()), unix.LOCK_SH|unix.LOCK_NB))
			l := unix.Flock_t{Type: unix.F_WRLCK, Start: 2, Len: 3}
			r.do("lock a part", unix.FcntlFlock(a.Fd(), unix.F_OFD_SETLK, &l))
			l = unix.Flock_t{Type: unix.F_RDLCK, Start: 4, Len: 3}
			r.do("overlapping", unix.FcntlFlock(b.Fd(), unix.F_OFD_SETLK, &l))
			l = unix.Flock_t{Type: unix.F_RDLCK, Start: 5, Len: 3}
			r.do("beside", unix.FcntlFlock(b.Fd(), unix.F_OFD_SETLK, &l))
			l = unix.Flock_t{Type: unix.F_WRLCK}
			r.do("who has it", unix.FcntlFlock(b.Fd(), unix.F_OFD_GETLK, &l))
			r.note("lock", fmt.Sprint(l.Type, l.Start, l.Len))
			// One that waits gets it when the other one lets go.
			got := make(chan error)
			go func() {
				l := unix.Flock_t{Type: unix.F_WRLCK, Start: 0, Len: 4}
				got <- unix.FcntlFlock(b.Fd(), unix.F_OFD_SETLKW, &l)
			}()
			a.Close()
			r.do("waited", <-got)
			b.Close()
		}
	},
	"leases": func(r *run) {
		for _, name := range []string{"file", "top", "new"} {
			if name == "new" {
				r.write(name, os.O_CREATE|os.O_WRONLY, "x")
			}
			fd, err := unix.Open(r.path(name), unix.O_RDONLY, 0)
			r.do("open", err)
			_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
			r.do("read lease "+name, err)
			got, err := unix.FcntlInt(uintptr(fd), unix.F_GETLEASE, 0)
			r.do("ask "+name, err)
			r.note("lease", got)
			_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK)
			r.do("give back "+name, err)
			_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK)
			r.do("write lease "+name, err)
			unix.Close(fd)
		}
	},
	"two who append": func(r *run) {
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				f, err := os.OpenFile(r.path("file"), os.O_WRONLY|os.O_APPEND, 0)
				if err != nil {
					return
				}
				defer f.Close()
				for range 300 {
					f.WriteString(strings.Repeat(fmt.Sprint(i), 37) + "\n")
				}
			})
		}
		wg.Wait()
		b, err := os.ReadFile(r.path("file"))
		r.do("read", err)
		b = b[len("content"):]
		lines := map[string]int{}
		for _, l := range strings.Split(string(b), "\n") {
			lines[l]++
		}
		r.note("lines", lines)
		r.do("remove", os.Remove(r.path("file"))) // whose lines came first is chance
	},
	"O_DIRECT": func(r *run) {
		f, err := os.OpenFile(r.path("big"), os.O_RDWR|unix.O_DIRECT, 0)
		r.do("open", err)
		defer f.Close()
		page, err := unix.Mmap(-1, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		r.do("mmap", err)
		defer unix.Munmap(page)
		n, err := unix.Pread(int(f.Fd()), page[:4096], 8192)
		r.do("read", err)
		r.note("read", fmt.Sprint(n, string(page[:20])))
		copy(page, "direct")
		_, err = unix.Pwrite(int(f.Fd()), page, 4096)
		r.do("write", err)
		buffered, _ := os.ReadFile(r.path("big"))
		r.note("then", string(buffered[4090:4110]))
		r.do("buffered write", writeSync(r.path("big"), 0, "buffered"))
		n, err = unix.Pread(int(f.Fd()), page[:4096], 0)
		r.do("read", err)
		r.note("read", fmt.Sprint(n, string(page[:10])))
		n, err = unix.Pread(int(f.Fd()), page[:4096], 4096*78)
		r.do("read at the end", err)
		r.note("read", n)
	},
	"O_CREAT, O_EXCL and O_TRUNC": func(r *run) {
		for _, name := range []string{"file", "top", "gone", "link", "dangling", "dir", "none/x"} {
			r.do("exclusive "+name, opened(unix.Open(r.path(name), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)))
			r.do("create "+name, opened(unix.Open(r.path(name), unix.O_CREAT|unix.O_RDONLY, 0o644)))
			r.do("truncate "+name, opened(unix.Open(r.path(name), unix.O_TRUNC|unix.O_WRONLY, 0)))
			r.stat(name)
		}
	},
}

// orphanCases are compared with a plain directory: where a lower file that was
// unlinked is changed, kernel overlayfs brings its name back.
var orphanCases = map[string]func(r *run){
	"unlinked files of every type": func(r *run) {
		for _, name := range []string{"fifo", "sock", "link", "file", "top", "dir/sub/deep/x"} {
			fd, err := unix.Open(r.path(name), unix.O_PATH|unix.O_NOFOLLOW, 0)
			r.do("open "+name, err)
			r.do("unlink "+name, unix.Unlink(r.path(name)))
			r.fstat("unlinked "+name, fd)
			buf := make([]byte, 100)
			n, err := unix.Readlinkat(fd, "", buf)
			r.do("readlink "+name, err)
			r.note("target", string(buf[:max(n, 0)]))
			if name != "link" {
				r.do("chmod "+name, unix.Chmod(fdName(fd), 0o604))
			}
			r.do("chown "+name, unix.Fchownat(fd, "", 3, 4, unix.AT_EMPTY_PATH))
			r.fstat("changed "+name, fd)
			unix.Close(fd)
		}
	},
	"an unlinked fifo carries data": func(r *run) {
		fd, err := unix.Open(r.path("fifo"), unix.O_RDWR|unix.O_NONBLOCK, 0)
		r.do("open", err)
		defer unix.Close(fd)
		r.do("unlink", unix.Unlink(r.path("fifo")))
		_, err = unix.Write(fd, []byte("through"))
		r.do("write", err)
		buf := make([]byte, 100)
		n, err := unix.Read(fd, buf)
		r.do("read", err)
		r.note("data", string(buf[:n]))
		r.do("fchmod", unix.Fchmod(fd, 0o600))
	},
}

func (r *run) fstat(what string, fd int) {
	var st unix.Stat_t
	r.do("fstat "+what, unix.Fstat(fd, &st))
	r.note("attributes", describe(&st)+fmt.Sprint(" links ", st.Nlink))
}

func TestOpenFiles(t *testing.T) {
	for name, ops := range openCases {
		t.Run(name, func(t *testing.T) { compare(t, base, ops) })
	}
	for name, ops := range orphanCases {
		t.Run(name, func(t *testing.T) { comparePlain(t, ops) })
	}
}

// TestTextFileBusy: a program that runs is not written to, wherever it lies, and
// what is open for writing is not executed.
func TestTextFileBusy(t *testing.T) {
	s := newStack(t, 1)
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	for _, dir := range []string{s.lowers[0], s.upper} {
		if out, err := exec.Command("cp", sleep, filepath.Join(dir, filepath.Base(dir))).CombinedOutput(); err != nil {
			t.Fatalf("%s", out)
		}
	}
	s.mount()
	for _, name := range []string{"lower0", "upper"} {
		path := s.path(name)
		cmd := exec.Command(path, "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{
			"open":     opened(unix.Open(path, unix.O_WRONLY, 0)),
			"append":   opened(unix.Open(path, unix.O_RDWR|unix.O_APPEND, 0)),
			"truncate": unix.Truncate(path, 0),
		} {
			if err != unix.ETXTBSY {
				t.Errorf("%s of the running %s: %v", what, name, err)
			}
		}
		// Its attributes and its name can be changed; then it runs on.
		for _, err := range []error{unix.Chmod(path, 0o700), os.Rename(path, path+"2"), unix.Truncate(path+"2", 0)} {
			if err != nil && err != unix.ETXTBSY {
				t.Error(err)
			}
		}
		if err := cmd.Process.Signal(unix.Signal(0)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		cmd.Process.Kill()
		cmd.Wait()
		f, err := os.OpenFile(path+"2", os.O_RDWR, 0)
		if err != nil {
			t.Fatalf("when it has ended: %v", err)
		}
		if err := exec.Command(path+"2", "0").Run(); err == nil || !strings.Contains(err.Error(), unix.ETXTBSY.Error()) {
			t.Errorf("executing what is open for writing: %v", err)
		}
		f.Close()
		if err := exec.Command(path+"2", "0").Run(); err != nil {
			t.Error(err)
		}
	}
}

// TestNotified: who watches a directory or a file of a lower layer hears of what
// others do, over a copy-up, too.
func TestNotified(t *testing.T) {
	s := newStack(t, 1)
	fill(t, s.lowers[0], tree("dir/file: text", "dir/gone", "dir/sub/x"))
	s.mount()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	watched := map[int]string{}
	for _, name := range []string{"dir", "dir/file", "dir/sub"} {
		wd, err := unix.InotifyAddWatch(fd, s.path(name), unix.IN_ALL_EVENTS&^unix.IN_ACCESS)
		if err != nil {
			t.Fatal(err)
		}
		watched[wd] = name
	}
	out, err := exec.Command("sh", "-c", `cd "$1" && echo more >>file && chmod 600 file && rm gone && mv file file2 && echo again >>file2 && mkdir sub/new`, "sh", s.path("dir")).CombinedOutput()
	if err != nil {
		t.Fatalf("%s", out)
	}
	names := []struct {
		bit  uint32
		name string
	}{{unix.IN_MODIFY, "MODIFY"}, {unix.IN_ATTRIB, "ATTRIB"}, {unix.IN_DELETE, "DELETE"}, {unix.IN_MOVED_FROM, "MOVED_FROM"},
		{unix.IN_MOVED_TO, "MOVED_TO"}, {unix.IN_MOVE_SELF, "MOVE_SELF"}, {unix.IN_CLOSE_WRITE, "CLOSE_WRITE"}, {unix.IN_CREATE, "CREATE"}}
	events, err := notifications(fd)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, e := range events {
		for _, n := range names {
			if e.mask&n.bit != 0 {
				lines = append(lines, fmt.Sprint(watched[e.wd], ": ", n.name, " ", e.name))
			}
		}
	}
	got := strings.Join(lines, "\n")
	for _, want := range []string{
		"dir: MODIFY file", "dir/file: MODIFY ", "dir: ATTRIB file", "dir/file: ATTRIB ", "dir: DELETE gone",
		"dir: MOVED_FROM file", "dir: MOVED_TO file2", "dir/file: MOVE_SELF ", "dir: MODIFY file2", "dir: CLOSE_WRITE file2", "dir/sub: CREATE new",
	} {
		if !strings.Contains("\n"+got+"\n", "\n"+want+"\n") {
			t.Errorf("not heard: %s", want)
		}
	}
	if t.Failed() {
		t.Logf("heard:\n%s", got)
	}
}

// TestBlocksOfOpenFiles: a file that is kept open has blocks when its data has
// been written, by fsync(2) or by the kernel in its own time, as also of
// another fsync(2) soon after.
func TestBlocksOfOpenFiles(t *testing.T) {
	s := newStack(t, 1)
	s.mount()
	write := func(name string, sync bool) {
		t.Helper()
		f, err := os.OpenFile(s.path(name), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		// At once, or the new time of the last change would be sent, too.
		if _, err := f.Write(make([]byte, 100000)); err != nil {
			t.Fatal(err)
		}
		if sync {
			err = f.Sync()
		} else {
			_, err = f.Seek(0, unix.SEEK_HOLE) // has the kernel write
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	blocks := func(path string) int64 {
		var st unix.Stat_t
		unix.Stat(path, &st)
		return st.Blocks
	}
	for _, sync := range []bool{true, false} {
		for i := range 10 {
			for again := range 3 {
				if again == 2 {
					if i > 0 {
						break
					}
					time.Sleep(2 * time.Second) // its end
				}
				name := fmt.Sprint(sync, i)
				write(name, sync)
				want := blocks(filepath.Join(s.upper, name))
				for end := time.Now().Add(5 * time.Second); blocks(s.path(name)) != want; time.Sleep(10 * time.Millisecond) {
					if sync && again != 1 || time.Now().After(end) {
						t.Fatalf("synced %v, %d times before: %d blocks, not %d", sync, again, blocks(s.path(name)), want)
					}
				}
			}
		}
	}
}

// TestBlocksOnceSynced: that an fsync(2) was answered with right blocks, and another
// one soon after perhaps was not, says nothing of one that comes later.
func TestBlocksOnceSynced(t *testing.T) {
	s := newStack(t, 1)
	s.mount()
	f, err := os.OpenFile(s.path("file"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sync := func() {
		t.Helper()
		if _, err := f.Write(make([]byte, 100000)); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	check := func() {
		t.Helper()
		var got, want unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &got); err != nil {
			t.Fatal(err)
		}
		if err := unix.Stat(filepath.Join(s.upper, "file"), &want); err != nil || got.Blocks != want.Blocks {
			t.Errorf("%d blocks, not %d, %v", got.Blocks, want.Blocks, err)
		}
	}
	sync() // nobody looks
	for range 2 {
		time.Sleep(2 * time.Second)
		sync()
		check()
	}
}

// TestLargeWrites: what is written in large pieces arrives, however it is
// written.
func TestLargeWrites(t *testing.T) {
	data := make([]byte, 5<<20+4096)
	rand.NewChaCha8([32]byte{}).Read(data)
	for name, how := range map[string]struct {
		through bool
		flags   int
	}{"collected": {}, "through": {through: true}, "direct": {flags: unix.O_DIRECT}, "appended": {flags: unix.O_APPEND}} {
		s := newStack(t, 1)
		fill(t, s.lowers[0], tree("file: text"))
		s.change = func(c *serveConfig) { c.Serve.WriteThrough = how.through }
		s.mount()
		f, err := os.OpenFile(s.path("file"), os.O_WRONLY|os.O_TRUNC|how.flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := f.Write(data); err != nil {
				t.Fatal(name, err)
			}
		}
		if err := f.Close(); err != nil {
			t.Error(name, err)
		}
		got, err := os.ReadFile(filepath.Join(s.upper, "file"))
		if err != nil || len(got) != 2*len(data) || !bytes.Equal(got[:len(data)], data) || !bytes.Equal(got[len(data):], data) {
			t.Errorf("%s: %d bytes arrived, or others, %v", name, len(got), err)
		}
	}
}

// TestNoTerminal: who asks an open file whether it is a terminal, as Python does
// for each, hears that it is not.
func TestNoTerminal(t *testing.T) {
	s := newStack(t, 1)
	fill(t, s.lowers[0], tree("file: text"))
	s.mount()
	f, err := os.Open(s.path("file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != unix.ENOTTY {
		t.Errorf("TCGETS: %v, not ENOTTY", err)
	}
}
