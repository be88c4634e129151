package fusedev

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
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
}

// The watchdog spins while there are requests, not after them.
func TestSpins(t *testing.T) {
	twoProcessors(t)
	path := filepath.Join(t.TempDir(), "loadavg")
	if err := os.WriteFile(path, []byte("0.20 0.18 0.12 1/80 11206\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wasAt, wasIn := loadavg, loadFS
	loadavg, loadFS = path, fileSystem(t, path) // whatever else this machine does
	t.Cleanup(func() { loadavg, loadFS = wasAt, wasIn })
	d, kernel := serveFor(t, 1<<16, handler{})
	for start := time.Now(); !d.pause.together.spins.Load(); {
		send(t, kernel, "request")
		want(t, kernel, "request")
		if time.Since(start) > time.Minute {
			t.Fatal("does not spin")
		}
	}
	for start := time.Now(); d.pause.together.spins.Load(); time.Sleep(tick) {
		if time.Since(start) > 10*time.Second {
			t.Fatal("spins without requests")
		}
	}
}

// It is to know that processors are free.
func TestLoadNotFree(t *testing.T) {
	l := load{fd: -1}
	if l.free() {
		t.Error("takes what it does not know for free")
	}
	l.fd = 0
	if !l.free() {
		t.Error("takes free ones for busy")
	}
	l.busy.Store(true)
	if l.free() {
		t.Error("takes busy ones for free")
	}
}

func TestSpin(t *testing.T) {
	var n together
	// Others may have the processor in turns that are too short to be noticed: so again,
	// if it had little of it.
	var used time.Duration
	left := false // to it, as far as it has noticed
	for tries := 0; tries < 100 && used < 10*time.Millisecond; tries++ {
		before, start := processorTime(t, unix.RUSAGE_SELF), time.Now()
		if n.spin(20*time.Millisecond, nil) {
			continue // crowded
		}
		left = true
		used = processorTime(t, unix.RUSAGE_SELF) - before
		if d := time.Since(start); d < 20*time.Millisecond {
			t.Errorf("ended after %v", d)
		}
	}
	if left && used < 10*time.Millisecond {
		t.Errorf("had a processor for %v of 20 ms", used)
	}
	done := make(chan struct{})
	close(done)
	start := time.Now()
	n.spin(time.Minute, done)
	n.halt.Store(true)
	if !n.spin(time.Minute, nil) {
		t.Error("does not make room")
	}
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("ended after %v", d)
	}
}

// Another thread on the processor of one that spins has nearly all of it.
func TestSpinYields(t *testing.T) {
	if runtime.GOMAXPROCS(0) < 2 {
		t.Skip("one processor: the test's own threads would share it with those it watches")
	}
	var one unix.CPUSet
	one.Set(processor())
	var end atomic.Bool
	used := make(chan time.Duration, 1)
	on := func(f func()) { // a thread of its own, which ends with f
		runtime.LockOSThread()
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			t.Error(err)
		}
		before := processorTime(t, unix.RUSAGE_THREAD)
		f()
		used <- processorTime(t, unix.RUSAGE_THREAD) - before
	}
	go on(func() {
		for n := (&together{}); !end.Load(); {
			n.spin(tick, nil)
		}
	})
	go on(func() {
		for start := time.Now(); time.Since(start) < 200*time.Millisecond; {
		}
	})
	other := <-used
	end.Store(true)
	spun := <-used
	if spun > other/2 {
		t.Errorf("a program had the processor for %v, the watchdog for %v", other, spun)
	}
}

// Who gets the lead beside a request that takes long needs a processor.
func TestLongRequestEndsSpin(t *testing.T) {
	d, kernel := device(t, 1<<16, handler{long: func(string) bool { return true }})
	b, err := newBuffers(d.size)
	if err != nil {
		t.Fatal(err)
	}
	defer b.free()
	d.idle.Store(1)
	go func() { <-d.lead }()
	send(t, kernel, "long")
	d.leadWith(b)
	if !d.pause.together.spin(time.Minute, nil) {
		t.Error("the watchdog spins on")
	}
}

func TestWoken(t *testing.T) {
	was := changeProcessor
	t.Cleanup(func() { changeProcessor = was })
	moves := 0
	changeProcessor = func() { moves++ }
	var n together
	step := func(times int, short bool, want int) {
		t.Helper()
		for range times {
			n.woken(short)
		}
		if moves != want {
			t.Fatalf("moved %d times, want %d", moves, want)
		}
	}
	step(100, true, 0) // nobody spins
	n.spins.Store(true)
	step(near-1, true, 0)
	step(1, true, 1)
	step(2*near-1, true, 1) // it did not help: less often
	step(1, true, 2)
	step(4*near-1, true, 2)
	step(1, false, 2) // it was not woken
	step(4*near-2, true, 2)
	step(1, true, 3)
	step(1<<16, false, 3)
	step(near, true, 4)
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
