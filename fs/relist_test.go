package fs_test

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// TestReadAgain: a directory's files are read again without a request for each,
// and a directory that is only listed is soon listed without any.
func TestReadAgain(t *testing.T) {
	const dirs, files = 5, 30
	s := newStack(t, 1)
	for i := range dirs {
		for k := range files {
			fill(t, s.lowers[0], tree(fmt.Sprint("dir", i, "/file", k)))
		}
	}
	s.mount()
	read := func(path string) {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Stat(); err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, f) // nothing of a directory
	}
	// replies counts those that the server gives while the tree is walked.
	replies := func(do func(path string)) int {
		defer time.Sleep(300 * time.Millisecond) // what shall be listed again is
		start := writes(t, s.server.Process.Pid)
		for _, path := range strings.Fields(names(t, s.mnt)) {
			do(s.path(path))
		}
		return writes(t, s.server.Process.Pid) - start
	}
	if n := replies(read); n < dirs*files {
		t.Errorf("%d replies for %d files: the test proves nothing", n, dirs*files)
	}
	var again []int
	few := 0
	for range 6 {
		n := replies(read)
		again = append(again, n)
		if n <= dirs*files/2 {
			few++
		}
	}
	if few < 4 { // other tests may drop the kernel's caches meanwhile
		t.Errorf("%d replies for %d files that are read again", again, dirs*files)
	}
	n := 1
	for tries := 0; n > 0 && tries < 20; tries++ {
		n = replies(func(string) {})
	}
	if n > 0 {
		t.Errorf("%d replies for listings, again and again", n)
	}
}

// writes returns how often a process has written.
func writes(t *testing.T, pid int) (n int) {
	t.Helper()
	io, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid)) // see proc_pid_io(5)
	if err != nil {
		t.Skip(err)
	}
	_, rest, _ := strings.Cut(string(io), "syscw: ")
	fmt.Sscan(rest, &n)
	return n
}
