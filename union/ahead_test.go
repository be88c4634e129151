package union

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cached reports whether the kernel has the file's data in its cache.
func cached(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page, err := unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(page)
	var in [1]byte // see mincore(2)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&page[0])), 1, uintptr(unsafe.Pointer(&in[0])))
	if errno != 0 {
		t.Skip("mincore: ", errno)
	}
	return in[0]&1 != 0
}

// Files that follow a slow one are read ahead, if their directory is read in
// order. Others may take them from the kernel's cache meanwhile.
func TestReadAhead(t *testing.T) {
	var differs string
	for range 5 {
		if differs = readAhead(t); differs == "" {
			return
		}
	}
	t.Error(differs)
}

// readAhead returns in what way files are not read ahead as they should be.
func readAhead(t *testing.T) (differs string) {
	low := t.TempDir()
	var names []string
	for i := range 3 * aheadFiles {
		names = append(names, fmt.Sprint("file", i))
	}
	write(t, low, names...)
	for _, name := range names {
		f, err := os.Open(filepath.Join(low, name))
		if err != nil {
			t.Fatal(err)
		}
		f.Sync()
		unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		f.Close()
		if cached(t, filepath.Join(low, name)) {
			t.Skip("files cannot be taken from the kernel's cache here")
		}
	}
	u, err := New(Config{Lowers: []Layer{{Path: low}}})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	names = nil // as they are listed
	u.ReadDirAt(u.Root(), firstCookie, func(e Dirent, _ uint64) bool {
		names = append(names, e.Name)
		return true
	})
	for _, step := range []struct {
		read int // is read
		slow bool
		have int // so many files have been read ahead then
	}{
		{0, false, 0},
		{aheadFiles, true, 0}, // not in order
		{aheadFiles + 5, false, 0},
		{0, true, 0}, // backwards
		{1, true, aheadFiles},
		{2, false, aheadFiles}, // enough is there
		{3 + aheadGap, false, 2 * aheadFiles},
		{3*aheadFiles - 1, false, 2 * aheadFiles},
	} {
		n, err := u.Lookup(u.Root(), names[step.read])
		if err != nil {
			t.Fatal(err)
		}
		u.ReadAhead(n, step.slow)
		u.ahead.done.Wait()
		u.Forget(n, 1)
		have := 0
		for end := time.Now().Add(5 * time.Second); have < step.have && time.Now().Before(end); {
			have = 0 // the disk takes its time
			for _, name := range names {
				if cached(t, filepath.Join(low, name)) {
					have++
				}
			}
		}
		for i, name := range names {
			if want := i >= 2 && i < 2+step.have; cached(t, filepath.Join(low, name)) != want {
				return fmt.Sprintf("%+v: read ahead is file %d: %v", step, i, !want)
			}
		}
	}
	return ""
}
