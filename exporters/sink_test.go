package exporters

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A pipe gets the same bytes as anything else, also one that does not block, and
// one that is read slowly.
func TestPipe(t *testing.T) {
	low := t.TempDir()
	for name, size := range map[string]int{"a": 0, "b": 1, "c": leastMoved - 1, "d": leastMoved, "e": leastMoved + 1, "f": pipeSize + 12345, "g": 5 << 20} {
		write(t, strings.Repeat(name, size), low, "dir"+name, name)
	}
	f, err := os.Create(filepath.Join(low, "sparse"))
	must(t, err)
	for off := range int64(5) {
		f.WriteAt(bytes.Repeat([]byte{'s'}, 100<<10), 300<<10+off<<20)
	}
	must(t, f.Truncate(20<<20))
	must(t, f.Close())
	u := layersOf(t, false, low)
	var want bytes.Buffer
	must(t, Tar(u, &want))
	for name, flags := range map[string]int{"blocking": 0, "not blocking": unix.O_NONBLOCK} {
		t.Run(name, func(t *testing.T) {
			var fds [2]int
			must(t, unix.Pipe2(fds[:], unix.O_CLOEXEC|flags))
			r, w := os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
			defer r.Close()
			failed := make(chan error, 1)
			go func() {
				defer w.Close()
				failed <- Tar(u, w)
			}()
			time.Sleep(20 * time.Millisecond) // the pipe becomes full
			got, err := io.ReadAll(r)
			if !bytes.Equal(got, want.Bytes()) {
				t.Errorf("%d bytes, %v; want %d", len(got), err, want.Len())
			}
			must(t, <-failed)
		})
	}
}

// A pipe is made larger, and never smaller than the caller has made it.
func TestPipeSize(t *testing.T) {
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	defer w.Close()
	newSink(w)
	for _, set := range []int{0, 4 * pipeSize} {
		want := pipeSize
		if set != 0 {
			if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, set); err != nil {
				t.Skip("a pipe this large: ", err)
			}
			newSink(w)
			want = set
		}
		size, err := unix.FcntlInt(w.Fd(), unix.F_GETPIPE_SZ, 0)
		if size != want || err != nil {
			t.Errorf("set to %d: %d, %v, want %d", set, size, err, want)
		}
	}
}

// A reader that goes away is an error of the target, in the middle of a large
// file, too.
func TestBrokenPipe(t *testing.T) {
	low := t.TempDir()
	write(t, strings.Repeat("x", 8<<20), low, "f")
	u := layersOf(t, false, low)
	r, w, err := os.Pipe()
	must(t, err)
	defer w.Close()
	go func() {
		io.CopyN(io.Discard, r, 2<<20)
		r.Close()
	}()
	if err := Tarfile(u, "", w); err == nil || err.Error() != "standard output: Broken pipe" {
		t.Error(err)
	}
}

// A file of a live layer that becomes shorter while it is moved into the pipe is
// an error that names it.
func TestShrinks(t *testing.T) {
	low := t.TempDir()
	path := write(t, strings.Repeat("x", 8<<20), low, "d/f")
	u := layersOf(t, true, low)
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	go func() {
		io.CopyN(io.Discard, r, 1<<20)
		os.Truncate(path, 100)
		io.Copy(io.Discard, r)
	}()
	err = Tar(u, w)
	w.Close()
	if err == nil || err.Error() != "/d/f: became shorter while it was read" {
		t.Error(err)
	}
}
