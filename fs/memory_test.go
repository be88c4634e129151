package fs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMemoryGivenBack: what the server needs for files that have been looked at
// and changed it gives back when the kernel forgets them, but for 2.5 MB, a fifth of
// what plash has at the start, and it never has more descriptors than it may.
func TestMemoryGivenBack(t *testing.T) {
	realRootOnly(t)
	s := newStack(t, 1)
	const dirs, files = 40, 1000
	for i := range dirs {
		dir := filepath.Join(s.lowers[0], fmt.Sprint(i))
		mkdirs(t, dir)
		for k := range files {
			if err := unix.Mknod(filepath.Join(dir, fmt.Sprint("file", k)), unix.S_IFREG|0o644, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.mount()
	pid := s.server.Process.Pid
	limit := unix.Rlimit{Cur: 1024, Max: 1024}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadDir(s.mnt); err != nil {
		t.Fatal(err)
	}
	start, _ := footprint(t, pid)
	names(t, s.mnt)
	for i := range dirs {
		for k := range files {
			var st unix.Stat_t
			path := s.path(fmt.Sprint(i, "/file", k))
			if err := unix.Lstat(path, &st); err != nil {
				t.Fatal(err)
			}
			if k%50 == 0 {
				if err := unix.Chmod(path, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	peak, _ := footprint(t, pid)
	if peak < start*14/10 {
		t.Fatalf("%d kB for %d files, after %d kB for none: the test proves nothing", peak, dirs*files, start)
	}
	var end, fds int
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); { // the kernel forgets in its own time
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
			t.Skip(err)
		}
		time.Sleep(200 * time.Millisecond)
		if end, fds = footprint(t, pid); end < start+5<<9 && fds < 30 {
			return
		}
	}
	t.Errorf("%d kB and %d descriptors, of %d kB at the start and %d kB with %d files", end, fds, start, peak, dirs*files)
}

// TestFewDescriptors: the server is content with 1,024 descriptors, whatever is
// open and without a name.
func TestFewDescriptors(t *testing.T) {
	s := newStack(t, 1)
	const files = 2100
	for i := range files / 3 {
		fill(t, s.lowers[0], tree(fmt.Sprint("low", i)))
	}
	s.change = func(c *serveConfig) { c.Volatile = true } // copies take no time
	s.mount()
	limit := unix.Rlimit{Cur: 1024, Max: 1024}
	if err := unix.Prlimit(s.server.Process.Pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	var open []*os.File
	for i := range files {
		name := []string{"low", "made", "changed"}[i%3] + fmt.Sprint(i/3)
		if i%3 == 2 {
			name = fmt.Sprint("dir", i, "/", name)
			mkdirs(t, s.path(filepath.Dir(name)))
		}
		f, err := os.OpenFile(s.path(name), os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if i%2 == 0 {
			if _, err := f.WriteAt([]byte(name), 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Unlink(s.path(name)); err != nil {
			t.Fatalf("unlink of the %d-th: %v", i, err)
		}
		open = append(open, f)
	}
	for i, f := range open {
		if _, err := f.WriteAt([]byte("later"), 100); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 200)
		if n, _ := f.ReadAt(buf, 0); n != 105 || string(buf[100:n]) != "later" {
			t.Fatalf("the %d-th has %q", i, buf[:n])
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Nlink != 0 {
			t.Fatalf("the %d-th has %d links, %v", i, st.Nlink, err)
		}
	}
	for _, f := range open {
		f.Close()
	}
	s.forget()
	work := filepath.Join(s.base, "work/work")
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left, _ := os.ReadDir(work)
		if len(left) <= 1 { // whiteouts may be links of one
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d objects are left in the work directory", len(left))
		}
	}
}

// TestNothingStaysOpen: of directories that are gone, or found again, and of files
// that had several names.
func TestNothingStaysOpen(t *testing.T) {
	realRootOnly(t)
	s := newStack(t, 2)
	for _, lower := range s.lowers {
		for i := range 50 {
			fill(t, lower, tree(fmt.Sprint("low", i, "/sub/x"), fmt.Sprint("moved", i, "/sub/deep/x")))
		}
	}
	s.change = func(c *serveConfig) { c.Volatile, c.Redirect = true, true }
	s.mount()
	_, start := footprint(t, s.server.Process.Pid)
	for i := range 50 {
		low, made, moved := s.path(fmt.Sprint("low", i)), s.path(fmt.Sprint("made", i)), s.path(fmt.Sprint("moved", i))
		for _, err := range []error{
			os.Mkdir(made, 0o755), os.Mkdir(made+"/sub", 0o755), os.Mkdir(made+"-2", 0o755), unix.Rename(made+"/sub", made+"-2"),
			unix.Rmdir(made), unix.Rmdir(made + "-2"), os.RemoveAll(low + "/sub"), unix.Rmdir(low),
			os.Rename(moved+"/sub", moved+"-sub"), os.Rename(moved, moved+"-2"),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		names(t, moved+"-sub")
		f, err := os.Create(made)
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{os.Link(made, made+"-2"), os.Remove(made), os.Remove(made + "-2"), f.Close()} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	s.forget()
	names(t, s.mnt) // by redirects, anew
	var fds int
	for range 50 {
		s.forget()
		if _, fds = footprint(t, s.server.Process.Pid); fds <= start+10 {
			return
		}
	}
	t.Errorf("%d descriptors, %d at the start", fds, start)
}

// footprint returns a process's resident memory in kB, without that of files, such
// as its program, which the kernel takes away and maps again; and its descriptors.
func footprint(t *testing.T, pid int) (kB, fds int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssAnon:")
	fmt.Sscan(rest, &kB)
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return kB, len(open)
}
