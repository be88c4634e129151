package fusedev

import (
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func twoProcessors(t *testing.T) {
	t.Helper()
	if runtime.GOMAXPROCS(0) < 2 {
		t.Skip("one processor")
	}
	was := processors
	processors = 2
	t.Cleanup(func() { processors = was })
}

func TestTogether(t *testing.T) {
	twoProcessors(t)
	type tick struct {
		requests uint64
		read     int64
		busy     bool
	}
	times := func(n int, k tick) []tick { return slices.Repeat([]tick{k}, n) }
	many, few := tick{requests: flow}, tick{requests: flow - 1}
	flowing := times(full, many)
	for _, c := range []struct {
		name  string
		ticks []tick
		spins bool
	}{
		{"many requests", flowing, true},
		{"many, not for long", times(full-1, many), false},
		{"few", times(2*full, few), false},
		{"few for a moment", slices.Concat(flowing, times(full/ebb-1, few)), true},
		{"few for longer", slices.Concat(flowing, times(full/ebb, few)), false},
		{"now and then", slices.Repeat([]tick{many, few}, full), false},
		{"busy processors", append(flowing, tick{requests: flow, busy: true}), false},
		{"a disk", append(flowing, tick{requests: flow, read: 8}), false},
		{"soon after a disk", slices.Concat(flowing, times(full, tick{requests: flow, read: 8})), false},
		{"later", slices.Concat(flowing, times(full+1, tick{requests: flow, read: 8})), true},
	} {
		var n together
		for _, k := range c.ticks {
			n.look(k.requests, k.read, k.busy)
		}
		if n.spins.Load() != c.spins {
			t.Errorf("%s: spins is %v", c.name, !c.spins)
		}
		n.look(0, 0, true) // gives the thread back
	}
	processors = 4
	var n together
	for range full {
		n.look(flow, 0, false)
	}
	if n.spins.Load() {
		t.Error("spins among four processors")
	}
}

// The watchdog spins while there are requests, not after them.
func TestSpins(t *testing.T) {
	twoProcessors(t)
	was := loadavg
	loadavg = "" // whatever else this machine does
	t.Cleanup(func() { loadavg = was })
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	d := New(fds[1], 1<<16, handler{})
	ended := make(chan error)
	go func() { ended <- d.Serve() }()
	defer func() {
		unix.Close(fds[0])
		<-ended
		unix.Close(fds[1])
	}()
	for start := time.Now(); !d.pause.together.spins.Load(); {
		send(t, fds[0], "request")
		want(t, fds[0], "request")
		if time.Since(start) > 10*time.Second {
			t.Fatal("does not spin")
		}
	}
	for start := time.Now(); d.pause.together.spins.Load(); time.Sleep(tick) {
		if time.Since(start) > 10*time.Second {
			t.Fatal("spins without requests")
		}
	}
}

func TestSpinEnds(t *testing.T) {
	done := make(chan struct{})
	close(done)
	start := time.Now()
	spin(time.Minute, done)
	spin(time.Millisecond, nil)
	if d := time.Since(start); d < time.Millisecond || d > 30*time.Second {
		t.Errorf("took %v", d)
	}
}

// A thread that changes processors may go wherever it could go before.
func TestChangeProcessor(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	two, found := unix.CPUSet{}, 0
	for i := 0; found < 2 && i < 64*len(all); i++ {
		if all.IsSet(i) {
			two.Set(i)
			found++
		}
	}
	if found < 2 {
		t.Skip("one processor")
	}
	if err := unix.SchedSetaffinity(0, &two); err != nil {
		t.Fatal(err)
	}
	defer unix.SchedSetaffinity(0, &all)
	changed := false
	for range 100 {
		before := processor()
		changeProcessor()
		changed = changed || processor() != before
		var now unix.CPUSet
		if err := unix.SchedGetaffinity(0, &now); err != nil || now != two {
			t.Fatalf("may go to %v now, before %v: %v", now, two, err)
		}
	}
	if !changed {
		t.Error("it stayed where it was")
	}
}
