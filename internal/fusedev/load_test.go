package fusedev

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Once all processors are busy without the leader it is not to poll until one
// of them is free again, which takes a whole window of ticks.
func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "loadavg")
	running := func(n int) {
		text := fmt.Sprintf("0.20 0.18 0.12 %d/80 11206\n", n)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	running(0)
	var l load
	l.open(path, fileSystem(t, path))
	defer l.close()
	for _, c := range []struct {
		running [2]int // in turn, beside one for each processor
		busy    bool
	}{
		{[2]int{0, 1}, false},
		{[2]int{1, 1}, false},
		{[2]int{1, 2}, true},
		{[2]int{1, 1}, true},
		{[2]int{0, 1}, false},
		{[2]int{9, 9}, true},
		{[2]int{-1, 0}, false},
	} {
		before := l.busy.Load()
		for i := range window {
			if l.busy.Load() != before {
				t.Errorf("changed its mind after %d ticks", i)
			}
			running(processors + c.running[i%2])
			l.look()
		}
		if l.busy.Load() != c.busy {
			t.Errorf("%v more than processors: busy is %v", c.running, !c.busy)
		}
	}
}

func fileSystem(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Type)
}

// Where the kernel does not say it, the processors count as free.
func TestLoadUnknown(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "loadavg")
	if err := os.WriteFile(other, []byte("9 9 9 9999/9999 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "none"), other} {
		var l load
		l.open(path, unix.PROC_SUPER_MAGIC)
		for range 2 * window {
			l.look()
		}
		l.close()
		if l.busy.Load() {
			t.Errorf("%s: busy without knowing it", path)
		}
	}
}

func TestLoadOfThisMachine(t *testing.T) {
	var l load
	l.open("/proc/loadavg", unix.PROC_SUPER_MAGIC)
	defer l.close()
	if n, ok := l.count(); l.fd >= 0 && (!ok || n < 1) {
		t.Errorf("%d threads run, known: %v", n, ok)
	}
}
