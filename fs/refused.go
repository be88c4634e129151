package fs

import (
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"plash/union"
)

// When the disk refuses what the kernel had collected of a program's writes, the next
// write(2) to that file must fail: the kernel goes on collecting, and a program that
// writes until the disk is full would never end. Of a write(2) the server hears only if
// the kernel asks for attributes before, as it does once it has been told to forget
// them. It then says that it has the file open, as it does for reading past the end and
// for lseek(2), too, but for these only when the time is over for which the attributes
// may be cached. So that time is long while there is a refusal, and then a request that
// says so is for writing, and fails. (Before Linux 5.16, protocol 7.35, the kernel asks
// for reading in any case: there it is not told to forget.)

const (
	// tellsWriters is the protocol's minor version from which it is.
	tellsWriters = 35
	// refusedFor is how long after a refusal a write fails for it. Who writes without
	// end meets others; who does not may have made room since then.
	refusedFor = time.Second
	// refusedTime is how long attributes may be cached meanwhile, but that they are
	// to be forgotten after forgetDelay, when the kernel has the reply.
	refusedTime = time.Hour
	forgetDelay = 5 * time.Millisecond
	// settles is how long after the first reply that said so there may be requests
	// that were sent before.
	settles = 50 * time.Millisecond
)

// tellWriter lets the next write(2) to n fail, as one that the kernel had collected
// was refused.
func (f *fileSystem) tellWriter(n *union.Node, st fuse.Status) {
	if f.minor < tellsWriters {
		return
	}
	f.refused.add(n, refusal{status: st, free: f.free()})
	f.askAgain(n)
}

// told returns for how long the kernel may cache the attributes of n in a reply, usually
// the time usual. surely says that it reads them.
func (f *fileSystem) told(n *union.Node, usual time.Duration, surely bool) time.Duration {
	if !f.refused.told(n, surely) {
		return usual
	}
	id, _ := n.ID()
	f.forget.add(id)
	return max(usual, refusedTime)
}

// refusal returns what a request for n's attributes by who has it open must fail for,
// if anything, and forgets it. A disk on which there is more room now is full no more;
// what a file had that was just removed may be free only a moment later.
func (f *fileSystem) refusal(n *union.Node) fuse.Status {
	r := f.refused.take(n, f.cacheTime(n))
	full := r.status == fuse.Status(unix.ENOSPC) || r.status == fuse.Status(unix.EDQUOT)
	if full && f.free() > r.free {
		return fuse.OK
	}
	return r.status
}

// free returns how many blocks of the upper's file system are free, whoever may use
// them: it says nothing of quotas but what others than the file's owner free, too.
func (f *fileSystem) free() uint64 {
	var fs unix.Statfs_t
	if f.u.Statfs(&fs) != nil {
		return math.MaxUint64
	}
	return fs.Bfree
}

// refusals are the nodes to which a write was refused lately, but for those whose
// writers have been told.
type refusals struct {
	some atomic.Bool // there are any

	mu    sync.Mutex // guards what follows
	nodes map[nodeID]refusal
	swept time.Time // when those that do not count any more were removed last
}

// A nodeID tells nodes that have the same number after each other apart.
type nodeID struct{ id, generation uint64 }

type refusal struct {
	status fuse.Status
	free   uint64    // see fileSystem.free, after it
	at     time.Time // when it was
	told   time.Time // when the kernel was first told that it may cache attributes for long
}

func (x refusal) over() bool { return time.Since(x.at) >= refusedFor }

func idOf(n *union.Node) nodeID {
	id, generation := n.ID()
	return nodeID{id, generation}
}

func (r *refusals) add(n *union.Node, x refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweep()
	if r.nodes == nil {
		r.nodes = map[nodeID]refusal{}
	}
	x.at = time.Now()
	if before, is := r.nodes[idOf(n)]; is && !before.over() {
		x.told = before.told
	}
	r.nodes[idOf(n)] = x
	r.some.Store(true)
}

// sweep removes at times what does not count any more. mu is held.
func (r *refusals) sweep() {
	if time.Since(r.swept) < refusedFor {
		return
	}
	r.swept = time.Now()
	maps.DeleteFunc(r.nodes, func(_ nodeID, x refusal) bool { return x.over() })
	r.some.Store(len(r.nodes) > 0)
}

// told reports whether there is one of n, and notes that the kernel is surely being told
// attributes for long.
func (r *refusals) told(n *union.Node, surely bool) bool {
	if !r.some.Load() {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweep()
	x, is := r.nodes[idOf(n)]
	if !is || x.over() {
		return false
	}
	if surely && x.told.IsZero() {
		x.told = time.Now()
		r.nodes[idOf(n)] = x
	}
	return true
}

// take removes that of n and returns it. There is none, whose status is OK, for who may
// be reading, as attributes are cached for the time usual, and may not have been for
// longer yet.
func (r *refusals) take(n *union.Node, usual time.Duration) (none refusal) {
	if !r.some.Load() {
		return none
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweep()
	x, is := r.nodes[idOf(n)]
	if !is || x.over() || usual < forever && (x.told.IsZero() || time.Since(x.told) < settles) {
		return none
	}
	delete(r.nodes, idOf(n))
	r.some.Store(len(r.nodes) > 0)
	return x
}
