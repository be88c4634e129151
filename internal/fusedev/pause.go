package fusedev

import (
	"time"

	"golang.org/x/sys/unix"
)

// A pause is the wait for the next request. It polls before it sleeps: a round
// trip takes 15 µs instead of 40 if the server is still awake when the request
// comes. It does so for a short time only, and only while that mostly works: if
// requests come later, as from programs that do other things between them, or
// all processors are busy, the processor is left to others. Nor does it poll while
// the watchdog spins in its place; see together.
type pause struct {
	credit int // how often it may still poll; 0: sleep at once
	load   load
	large  int  // for how many requests one is expected that is worth a pipe
	waited bool // the last request was there already
	queue  queue

	together together
}

const (
	// pollFor is how long it polls; 200 µs would gain little over it.
	pollFor   = 50 * time.Microsecond
	maxCredit = 8
	// polls is how many reads are tried between two looks at the clock.
	polls = 8
	// soon is a sleep after which polling would have been better, the time that
	// waking up takes included.
	soon = 2 * pollFor
	// rest is a time without requests after which readers give up what they
	// need for the next ones.
	rest = time.Second
)

// read receives the next request into b: see Handler.Handle for what it returns.
// For errors see Device.unreadable.
func (p *pause) read(fd int, b *buffers) (in []byte, rest *Pipe, err error) {
	n, err := p.wait(fd, b)
	if err != nil {
		return nil, nil, err
	}
	piped := p.large > 0
	p.expect(n)
	switch {
	case !piped:
		return b.in[:n], nil, nil
	case n < bulk:
		return b.in[:b.pipe.read(b.in[:n])], nil, nil
	}
	return b.in[:b.pipe.read(b.in[:arguments])], b.pipe, nil
}

// wait receives the next request, into b.pipe if a large one is expected, and
// returns its size.
func (p *pause) wait(fd int, b *buffers) (int, error) {
	n, err := p.try(fd, b)
	p.waited = err == nil
	if err != unix.EAGAIN {
		p.together.woken(false)
		return n, err
	}
	start := time.Now()
	if p.credit > 0 && processors > 1 && !p.load.busy.Load() && !p.together.spins.Load() {
		for i := 1; i%polls != 0 || time.Since(start) < pollFor; i++ {
			if n, err = p.try(fd, b); err != unix.EAGAIN {
				p.credit = min(p.credit+1, maxCredit)
				return n, err
			}
		}
		p.credit /= 2
	}
	for err == unix.EAGAIN {
		if err = p.sleep(fd, b); err != nil {
			return 0, err
		}
		n, err = p.try(fd, b)
	}
	short := time.Since(start) < soon
	if p.credit == 0 && short {
		p.credit = 1
	}
	p.together.woken(short)
	return n, err
}

// try receives a request if there is one.
func (p *pause) try(fd int, b *buffers) (int, error) {
	if p.large > 0 && b.pipe == nil {
		if b.pipe = newPipe(len(b.in)); b.pipe == nil {
			p.large = 0
		}
	}
	if p.large > 0 {
		return b.pipe.receive(fd, len(b.in))
	}
	return tryRead(fd, b.in)
}

// expect notes the size of a request.
func (p *pause) expect(n int) {
	if n >= bulk {
		p.large = soonLarge
	} else if p.large > 0 {
		p.large--
	}
}

// sleep waits until there is something to read, or the end. If that takes long,
// the memory of b is given back meanwhile.
func (p *pause) sleep(fd int, b *buffers) error {
	limit := int(rest / time.Millisecond)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, limit)
		switch {
		case err == unix.EINTR:
		case err != nil || n > 0:
			return err
		default:
			b.empty()
			p.large = 0
			limit = -1
		}
	}
}
