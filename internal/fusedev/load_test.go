package fusedev

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
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
	l.open(path)
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

// Without /proc the processors count as free.
func TestLoadUnknown(t *testing.T) {
	var l load
	l.open(filepath.Join(t.TempDir(), "none"))
	defer l.close()
	for range 2 * window {
		l.look()
	}
	if l.busy.Load() {
		t.Error("busy without knowing it")
	}
}

func TestLoadOfThisMachine(t *testing.T) {
	var l load
	l.open("/proc/loadavg")
	defer l.close()
	if n, ok := l.count(); !ok || n < 1 {
		t.Errorf("%d threads run, known: %v", n, ok)
	}
}
