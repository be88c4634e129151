package launcher

import (
	"runtime/debug"
	"testing"
)

// After the pause, the garbage collection goes on as a server's, and obeys GOMEMLIMIT.
func TestPauseGC(t *testing.T) {
	const limit = 1 << 40
	defer debug.SetGCPercent(debug.SetGCPercent(73))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(limit))
	resume := pauseGC()
	if p := debug.SetGCPercent(-1); p != -1 {
		t.Errorf("paused: %d %%", p)
	}
	resume()
	if p := debug.SetGCPercent(73); p != startGCPercent {
		t.Errorf("afterwards %d %%", p)
	}
	if l := debug.SetMemoryLimit(-1); l != limit {
		t.Errorf("afterwards a limit of %d", l)
	}
}
