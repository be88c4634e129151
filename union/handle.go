package union

import (
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// A handle is a descriptor that the cache may close while nobody uses it.
// Its state counts the users; the two high bits say that it is to be closed
// when the last one leaves, and that it is closed.
type handle struct {
	fd     int
	state  atomic.Int32
	recent atomic.Bool // used since the clock's hand passed
	write  bool        // opened for writing
	// in is where the handle is found, if anywhere: it must not stay there, with
	// its memory, when it is closed. Set only before the first unpin.
	in *atomic.Pointer[handle]
}

const (
	handleDead   = 1 << 29
	handleClosed = 1 << 30
)

// pin keeps the descriptor open until unpin; it reports false if it has been
// closed already.
func (h *handle) pin() bool {
	for {
		s := h.state.Load()
		if s >= handleDead {
			return false
		}
		if h.state.CompareAndSwap(s, s+1) {
			if !h.recent.Load() {
				h.recent.Store(true)
			}
			return true
		}
	}
}

func (h *handle) unpin() {
	if h.state.Add(-1) == handleDead {
		h.closeIf(handleDead)
	}
}

// retire closes the handle as soon as its last user has left it.
func (h *handle) retire() {
	for {
		s := h.state.Load()
		if s >= handleDead {
			return
		}
		if h.state.CompareAndSwap(s, s|handleDead) {
			if s == 0 {
				h.closeIf(handleDead)
			}
			return
		}
	}
}

func (h *handle) closeIf(state int32) bool {
	if !h.state.CompareAndSwap(state, handleDead|handleClosed) {
		return false
	}
	unix.Close(h.fd)
	if h.in != nil {
		h.in.CompareAndSwap(h, nil)
		h.in = nil
	}
	return true
}

// fdCache bounds the number of open handles: a clock over all of them, swept
// when one is added to a full one.
type fdCache struct {
	max atomic.Int64 // how many there may be

	mu   sync.Mutex // guards what follows
	ring []*handle
	hand int
}

// init takes half of the descriptors the process may have; the rest serves
// requests under way, locks and unlinked files.
func (c *fdCache) init() {
	limit := uint64(1024)
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) == nil {
		limit = min(lim.Cur, 1<<17)
	}
	c.max.Store(int64(limit / 2))
}

// add makes a handle of fd, already pinned once, which will be found at in.
func (c *fdCache) add(fd int, write bool, in *atomic.Pointer[handle]) *handle {
	h := &handle{fd: fd, write: write, in: in}
	h.state.Store(1)
	h.recent.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ring) < int(c.max.Load()) {
		c.ring = append(c.ring, h)
		return h
	}
	c.sweep(func(i int) bool { c.ring[i] = h; return false })
	if c.ring[c.hand] != h {
		c.ring = append(c.ring, h) // everything is in use: exceed the bound
		return h
	}
	return h
}

// sweep closes handles that nobody uses and calls took with the ring's free
// index for each, until that returns false or the hand went round twice.
func (c *fdCache) sweep(took func(i int) bool) {
	for range 2 * len(c.ring) {
		c.hand++
		if c.hand >= len(c.ring) {
			c.hand = 0
		}
		h := c.ring[c.hand]
		if h.recent.Swap(false) && h.state.Load() < handleDead {
			continue
		}
		if h.state.Load()&handleClosed != 0 || h.closeIf(0) {
			if !took(c.hand) {
				return
			}
		}
	}
}

// shed closes what can be closed, when descriptors ran short all the same: the
// limit may have been lowered.
func (c *fdCache) shed() {
	c.init()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropClosed()
	n := max(len(c.ring)/4, len(c.ring)-int(c.max.Load()))
	c.sweep(func(int) bool { n--; return n > 0 })
}

// dropClosed forgets the handles that are closed. mu is held.
func (c *fdCache) dropClosed() {
	c.ring = slices.DeleteFunc(c.ring, func(h *handle) bool { return h.state.Load()&handleClosed != 0 })
	c.hand = 0
}

// tidy gives back the memory of handles that are closed.
func (c *fdCache) tidy() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropClosed()
	c.ring = slices.Clone(c.ring)
}

func (c *fdCache) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.ring {
		h.retire()
	}
	c.ring = nil
}

// openat opens name below dir, waiting out signals, and makes room once if
// descriptors have run short.
func (u *Union) openat(dir int, name string, flags int, mode uint32) (int, error) {
	for tries := 0; ; {
		fd, err := openat(dir, name, flags|unix.O_CLOEXEC, mode)
		switch {
		case err == syscall.EINTR:
		case (err == syscall.EMFILE || err == syscall.ENFILE) && tries == 0:
			tries++
			u.fds.shed()
		default:
			makeRoom(fd)
			return fd, err
		}
	}
}
