package fs_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSeekKeepsCache: who looks for holes in a file that has none does not read it
// from the server again.
func TestSeekKeepsCache(t *testing.T) {
	s := newStack(t, 1)
	fill(t, s.lowers[0], tree("file"))
	if err := os.WriteFile(filepath.Join(s.lowers[0], "file"), bytes.Repeat([]byte("x"), 300000), 0o644); err != nil {
		t.Fatal(err)
	}
	s.mount()
	f, err := os.Open(s.path("file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	look := func() {
		if end, err := f.Seek(0, unix.SEEK_HOLE); err != nil || end != 300000 {
			t.Fatalf("hole at %d, %v", end, err)
		}
		f.Seek(0, io.SeekStart)
		io.Copy(io.Discard, f)
	}
	look()
	const times = 20
	start := writes(t, s.server.Process.Pid)
	for range times {
		look()
	}
	// With the file's pages dropped it were three a time: to drop them and two replies. Go's
	// runtime writes now and then, too.
	if n := writes(t, s.server.Process.Pid) - start; n > 2*times+times/2 {
		t.Errorf("%d replies for looking for holes %d times", n, times)
	}
}

// TestSeekMapped: what was written to a hole through a mapping is data, before
// anybody has it written back.
func TestSeekMapped(t *testing.T) {
	const size, at = 1 << 20, 512 << 10
	s := newStack(t, 1)
	fill(t, s.lowers[0], tree("sparse"))
	if err := os.Truncate(filepath.Join(s.lowers[0], "sparse"), size); err != nil {
		t.Fatal(err)
	}
	s.mount()
	f, err := os.OpenFile(s.path("sparse"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(b)
	b[at] = 'x'
	if data, err := f.Seek(size/4, unix.SEEK_DATA); err != nil || data != at {
		t.Errorf("data at %d, %v; want %d", data, err, at)
	}
}
