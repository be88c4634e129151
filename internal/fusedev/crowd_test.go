package fusedev

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestCrowd(t *testing.T) {
	type tick struct{ led, helped, met uint64 }
	times := func(n int, k tick) []tick { return slices.Repeat([]tick{k}, n) }
	many, some, alone := tick{led: flow, met: flow / 2}, tick{led: flow, met: flow / 3}, tick{led: flow}
	begun := times(full, many)
	was := processors
	t.Cleanup(func() { processors = was })
	for _, c := range []struct {
		name       string
		processors int
		ticks      []tick
		helps      bool
	}{
		{"crowd", 2, begun, true},
		{"not for long", 2, times(full-1, many), false},
		{"one client", 2, times(2*full, alone), false},
		{"few requests", 2, times(2*full, tick{led: flow - 1, met: flow - 1}), false},
		{"some of a crowd", 2, slices.Concat(begun, times(2*full, some)), true},
		{"none for a moment", 2, slices.Concat(begun, times(full/ebb-1, alone)), true},
		{"no more", 2, slices.Concat(begun, times(full/ebb, alone)), false},
		{"the helper's requests", 2, slices.Concat(begun, times(full, tick{helped: flow, met: flow / 2})), true},
		{"one processor", 1, times(4*full, many), false},
	} {
		processors = c.processors
		var d crowd
		begins := 0
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
		if d.wanted.Load() != c.helps || c.helps && begins != 1 {
			t.Errorf("%s: wanted is %v, %d have begun", c.name, d.wanted.Load(), begins)
		}
	}
}

// A helper that has not noticed yet that it was not wanted for a moment goes on, or
// another one begins when it has ended.
func TestHelperWantedAgain(t *testing.T) {
	was := processors
	processors = 2
	t.Cleanup(func() { processors = was })
	var c crowd
	c.alive.Store(true)
	for range full {
		c.met.Store(flow)
		if _, begin := c.look(flow); begin {
			t.Error("another helper begins")
		}
	}
	c.alive.Store(false)
	if _, begin := c.look(flow); !begin {
		t.Error("none begins")
	}
}

// A helper does not go on when reading has ended, though it could read, and ends it
// when it cannot.
func TestHelperEnds(t *testing.T) {
	d, kernel := device(t, 1<<16, handler{})
	d.crowd.wanted.Store(true)
	d.crowd.alive.Store(true)
	d.finish(errors.New("no memory"))
	send(t, kernel, request(1))
	if d.help(); d.crowd.alive.Load() {
		t.Error("it is alive")
	}
	if !ready(d.fd) {
		t.Error("it has read a request")
	}
	d = New(-1, 1<<16, handler{})
	d.crowd.wanted.Store(true)
	d.crowd.alive.Store(true)
	if d.help(); d.crowd.alive.Load() || !errors.Is(d.err, unix.EBADF) {
		t.Errorf("alive is %v after %v", d.crowd.alive.Load(), d.err)
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
		if round(1); d.crowd.alive.Load() {
			t.Fatal("one client has a helper")
		}
	}
	for start := time.Now(); !helped; {
		if round(2); time.Since(start) > time.Minute {
			t.Fatalf("no helper answers; alive is %v", d.crowd.alive.Load())
		}
	}
	for start := time.Now(); d.crowd.alive.Load(); round(1) {
		if time.Since(start) > time.Minute {
			t.Fatal("the helper does not end")
		}
	}
}
