package launcher

import (
	"runtime/debug"
	"testing"
)

// After the pause, the garbage collection obeys GOGC and GOMEMLIMIT again.
func TestPauseGC(t *testing.T) {
	const percent, limit = 73, 1 << 40
	defer debug.SetGCPercent(debug.SetGCPercent(percent))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(limit))
	resume := pauseGC()
	if p := debug.SetGCPercent(-1); p != -1 {
		t.Errorf("paused: %d %%", p)
	}
	resume()
	if p := debug.SetGCPercent(percent); p != percent {
		t.Errorf("afterwards %d %%", p)
	}
	if l := debug.SetMemoryLimit(-1); l != limit {
		t.Errorf("afterwards a limit of %d", l)
	}
}
