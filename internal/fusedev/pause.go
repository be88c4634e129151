package fusedev

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// A pause is the wait for the next request. It polls before it sleeps: a round
// trip takes 15 µs instead of 40 if the server is still awake when the request
// comes. It does so for a short time only, and only while that mostly works: if
// requests come later, as from programs that do other things between them or
// have to wait for a processor, the processor is left to others.
type pause struct {
	credit int // how often it may still poll; 0: sleep at once
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

var oneProcessor = runtime.NumCPU() == 1

// read reads the next request into b.in. ENODEV is the end.
func (p *pause) read(fd int, b *buffers) (int, error) {
	n, err := tryRead(fd, b.in)
	if err != unix.EAGAIN {
		return n, err
	}
	start := time.Now()
	if p.credit > 0 && !oneProcessor {
		for i := 1; i%polls != 0 || time.Since(start) < pollFor; i++ {
			if n, err = tryRead(fd, b.in); err != unix.EAGAIN {
				p.credit = min(p.credit+1, maxCredit)
				return n, err
			}
		}
		p.credit /= 2
	}
	for err == unix.EAGAIN {
		if err = sleep(fd, b); err != nil {
			return 0, err
		}
		n, err = tryRead(fd, b.in)
	}
	if p.credit == 0 && time.Since(start) < soon {
		p.credit = 1
	}
	return n, err
}

// sleep waits until there is something to read, or the end. If that takes long,
// the memory of b is given back meanwhile.
func sleep(fd int, b *buffers) error {
	limit := int(rest / time.Millisecond)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, limit)
		switch {
		case err == unix.EINTR:
		case err != nil || n > 0:
			return err
		default:
			b.empty()
			limit = -1
		}
	}
}
