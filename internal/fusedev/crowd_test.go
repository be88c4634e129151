package fusedev

import (
	"encoding/binary"
	"runtime"
	"slices"
	"testing"
	"time"
)

func TestCrowd(t *testing.T) {
	type tick struct{ led, helped, met uint64 }
	times := func(n int, k tick) []tick { return slices.Repeat([]tick{k}, n) }
	crowd1, some, alone := tick{led: flow, met: flow / 2}, tick{led: flow, met: flow / 3}, tick{led: flow}
	begun := times(full, crowd1)
	was := processors
	t.Cleanup(func() { processors = was })
	for _, c := range []struct {
		name       string
		processors int
		ticks      []tick
		helpers    int32
	}{
		{"crowd", 2, begun, 1},
		{"not for long", 2, times(full-1, crowd1), 0},
		{"one client", 2, times(2*full, alone), 0},
		{"few requests", 2, times(2*full, tick{led: flow - 1, met: flow - 1}), 0},
		{"some of a crowd", 2, slices.Concat(begun, times(2*full, some)), 1},
		{"no more", 2, slices.Concat(begun, times(full/ebb/2, alone)), 0},
		{"helpers' requests", 2, slices.Concat(begun, times(full, tick{helped: flow, met: flow / 2})), 1},
		{"one processor", 1, times(4*full, crowd1), 0},
		{"many processors", 64, times(4*full, crowd1), mostHelpers},
	} {
		processors = c.processors
		var d crowd
		begins := int32(0)
		for _, k := range c.ticks {
			d.helped.Store(k.helped)
			d.met.Store(k.met)
			requests, begin := d.look(k.led)
			if requests != k.led+k.helped {
				t.Errorf("%s: %d requests", c.name, requests)
			}
			if begin {
				begins++
			}
		}
		if d.wanted.Load() != c.helpers || begins < c.helpers || d.alive.Load() != begins {
			t.Errorf("%s: %d helpers are wanted, not %d; %d have begun, %d live", c.name, d.wanted.Load(), c.helpers, begins, d.alive.Load())
		}
		for d.ends() {
			begins--
		}
		if begins != c.helpers {
			t.Errorf("%s: %d of %d do not end", c.name, begins, c.helpers)
		}
	}
}

// A helper that has not noticed its end yet is wanted again.
func TestHelperGoesOn(t *testing.T) {
	var c crowd
	c.alive.Store(1)
	twoProcessors(t)
	for range full {
		c.met.Store(flow)
		if _, begin := c.look(flow); begin {
			t.Error("another helper begins")
		}
	}
	if c.ends() {
		t.Error("it ends")
	}
}

// request is a struct fuse_in_header of a thread.
func request(sender uint32) string {
	b := make([]byte, 40)
	binary.NativeEndian.PutUint32(b[pidAt:], sender)
	return string(b)
}

func TestQueue(t *testing.T) {
	var c crowd
	var q queue
	for _, r := range []struct {
		sender uint32
		waited bool
	}{{1, true}, {2, true}, {2, true}, {0, true}, {2, true}, {3, false}, {4, true}} {
		q.note(&c, []byte(request(r.sender)), r.waited)
	}
	q.note(&c, []byte("short"), true)
	if met := c.met.Load(); met != 3 { // 1, 2 and 4
		t.Errorf("%d of a crowd", met)
	}
}

// While two programs' requests wait for each other, a helper answers some; it ends
// when there are no more of them, and never begins for those of one.
func TestHelper(t *testing.T) {
	if runtime.GOMAXPROCS(0) < 2 {
		t.Skip("one processor")
	}
	twoProcessors(t)
	d, kernel := serveFor(t, 1<<16, handler{answer: func(string) {
		for start := time.Now(); time.Since(start) < 20*time.Microsecond; {
		}
	}})
	helped := false
	round := func(senders uint32) {
		const waiting = 8
		for i := range uint32(waiting) {
			send(t, kernel, request(1+i%senders))
		}
		for range waiting {
			receive(t, kernel)
			helped = helped || d.crowd.helped.Load() > 0
		}
	}
	for start := time.Now(); time.Since(start) < 5*full*tick; {
		if round(1); d.crowd.alive.Load() > 0 {
			t.Fatal("one client has a helper")
		}
	}
	for start := time.Now(); !helped; {
		if round(2); time.Since(start) > time.Minute {
			t.Fatalf("%d helpers, which answer nothing", d.crowd.alive.Load())
		}
	}
	for start := time.Now(); d.crowd.alive.Load() > 0; round(1) {
		if time.Since(start) > time.Minute {
			t.Fatal("the helper does not end")
		}
	}
}
