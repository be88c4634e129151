package union

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCopyData: however the data of a file gets into its copy, it is the same, with
// its holes, or as much of it as is wanted.
func TestCopyData(t *testing.T) {
	dir := t.TempDir()
	src, err := os.Create(filepath.Join(dir, "src"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	piece := make([]byte, 2*large)
	rand.NewChaCha8([32]byte{1}).Read(piece)
	for at, length := range map[int64]int{4 * large: 3*large/2 + 100, 8 * large: large + 5, 12 * large: large / 3} {
		if _, err := src.WriteAt(piece[:length], at); err != nil {
			t.Fatal(err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(src.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	all, err := os.ReadFile(src.Name())
	if err != nil {
		t.Fatal(err)
	}
	for _, noRange := range []bool{false, true} {
		for _, length := range []int64{st.Size, 9*large - 5, 4*large + 1, 3} {
			dst, err := os.Create(filepath.Join(dir, "dst"))
			if err != nil {
				t.Fatal(err)
			}
			l := &layer{}
			l.noClone.Store(true)
			l.noCopyRange.Store(noRange)
			if err := copyData(int(dst.Fd()), int(src.Fd()), length, &st, l); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(dst.Name())
			if err != nil || !bytes.Equal(got, all[:length]) {
				t.Errorf("without copy_file_range %v: %d bytes of %d differ, %v", noRange, len(got), length, err)
			}
			var now unix.Stat_t
			if err := unix.Fstat(int(dst.Fd()), &now); err != nil || now.Blocks > st.Blocks {
				t.Errorf("without copy_file_range %v: %d blocks instead of %d, %v", noRange, now.Blocks, st.Blocks, err)
			}
			dst.Close()
		}
	}
	// Without holes, too, and where the kernel cannot do it.
	dst, err := os.OpenFile(filepath.Join(dir, "appended"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	l := &layer{}
	l.noCopyRange.Store(true)
	if err := copyRange(int(dst.Fd()), int(src.Fd()), 0, st.Size, l); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(dst.Name()); err != nil || !bytes.Equal(got, all) {
		t.Errorf("by hand: %d bytes differ, %v", len(got), err)
	}
}
