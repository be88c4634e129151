package importers

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Files are filled while their names are replaced and linked to already: each
// keeps what is its own. Their sizes are on both sides of that of a piece.
func TestFilledAsideOfNames(t *testing.T) {
	sizes := []int{0, 1, 5000, pieceSize - 1, pieceSize, pieceSize + 1, 3*pieceSize + 7, 20 * pieceSize}
	content := func(i int) string {
		return strings.Repeat(fmt.Sprintf("%7d\n", i), sizes[i%len(sizes)]/8+1)[:sizes[i%len(sizes)]]
	}
	mode := func(i int) int64 { return 0o4600 | int64(i%8) }
	const files = 80
	var parts []any
	for i := range files {
		h, c := file("f", content(i))
		h.Mode, h.ModTime = mode(i), stamp.Add(time.Duration(i)*time.Second)
		parts = append(parts, h, c, link(tar.TypeLink, fmt.Sprintf("link%d", i), "f"))
		if i%3 == 0 {
			parts = append(parts, member(tar.TypeDir, "f"))
		}
	}
	parts = append(parts, link(tar.TypeSymlink, "f", "/nowhere"))
	dir := mustUnpack(t, archiveOf(t, parts...))
	for i := range files {
		name := fmt.Sprintf("link%d", i)
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != content(i) {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(content(i)))
		}
		st := lstat(t, dir, name)
		if st.Mode&0o7777 != uint32(mode(i)) || time.Unix(st.Mtim.Unix()) != stamp.Add(time.Duration(i)*time.Second) || st.Nlink != 1 {
			t.Errorf("%s: mode %o, time %v, %d links", name, st.Mode, time.Unix(st.Mtim.Unix()), st.Nlink)
		}
	}
	if target, err := os.Readlink(filepath.Join(dir, "f")); target != "/nowhere" {
		t.Error(target, err)
	}
}

// Of several members that fail it is the first in the archive that is named,
// whichever fails first, and no file stays open.
func TestFirstFailure(t *testing.T) {
	for _, first := range []int{0, 7, 30} {
		dir, fds := t.TempDir(), map[int]bool{}
		w := startWriters(func(f *newFile) error {
			switch f.member {
			case first:
				time.Sleep(20 * time.Millisecond)
				return unix.EIO
			case first + 1, first + 30:
				return unix.ENOSPC
			}
			return nil
		})
		for i := range 60 {
			fd, err := openat(unix.AT_FDCWD, filepath.Join(dir, fmt.Sprint(i)), unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			fds[fd] = true
			if err := w.take(&newFile{fd: fd, member: i, name: fmt.Sprintf("f%d", i)}, strings.NewReader("x"), 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.finish(); err == nil || err.Error() != fmt.Sprintf("f%d: Input/output error", first) {
			t.Errorf("first %d: %v", first, err)
		}
		if !w.broken.Load() {
			t.Error("nobody was told")
		}
		for fd := range fds {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF {
				t.Errorf("descriptor %d is open: %v", fd, err)
			}
		}
	}
}

// A sparse file that is larger than any can be is refused before all its zeros have
// been read.
func TestTooLarge(t *testing.T) {
	fd, err := openat(unix.AT_FDCWD, filepath.Join(t.TempDir(), "file"), unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	w := startWriters(func(*newFile) error { return nil })
	// A machine reads 100 GB of zeros in some ten seconds.
	zeros := io.LimitReader(zeroes{}, 100<<30)
	if err := w.take(&newFile{fd: fd, name: "file"}, zeros, math.MaxInt64); err != nil {
		t.Errorf("read on: %v", err)
	}
	if err := w.finish(); err == nil || err.Error() != "file: File too large" {
		t.Error(err)
	}
}

type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// A member that cannot be written counts, not what is wrong with the archive
// behind it; and nothing is read on and on for a disk that is full.
func TestFullDiskBeforeTheEnd(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	const size = 1 << 30
	h := member(tar.TypeReg, "big")
	h.Size = size
	var head bytes.Buffer
	if err := tar.NewWriter(&head).WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	r := &countingReader{head: head.Bytes()}
	err := Unpack(r, dir, UnpackOptions{})
	if err == nil || err.Error() != "big: No space left on device" {
		t.Error(err)
	}
	if n := r.n.Load(); n > size/2 {
		t.Errorf("read %d bytes for a disk of a megabyte", n)
	}
	cut := archiveOf(t, withFile("big", strings.Repeat("x", 4<<20))...)[:3<<20]
	if err := Unpack(bytes.NewReader(cut), dir, UnpackOptions{}); err == nil || err.Error() != "big: No space left on device" {
		t.Error(err)
	}
}

// countingReader gives head and then the same byte without end.
type countingReader struct {
	head []byte
	n    atomic.Int64 // it is read in another goroutine
}

func (r *countingReader) Read(p []byte) (int, error) {
	n := copy(p, r.head)
	r.head = r.head[n:]
	for i := n; i < len(p); i++ {
		p[i] = 'x'
	}
	r.n.Add(int64(len(p)))
	return len(p), nil
}
