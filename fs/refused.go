package fs

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// tellWriter lets the next write(2) to a node fail, as one that the kernel had
// collected was refused: it goes on collecting, so that a program which writes until
// the disk is full never ended. Before a write the kernel asks for attributes that it
// has been told to forget, and only for writing, and with timeouts for reading and to
// find a file's end, it says that it has the file open.
func (f *fileSystem) tellWriter(id uint64, st fuse.Status) {
	f.refused.add(id, st)
	f.device.InvalidateAttributes(id) // fails if the kernel does not know it any more
}

// refusal returns what the next write to a node must fail for, if anything, and
// forgets it. A disk on which there is room again is full no more.
func (f *fileSystem) refusal(id uint64) fuse.Status {
	st := f.refused.take(id)
	var fs unix.Statfs_t
	if st == fuse.Status(unix.ENOSPC) && f.u.Statfs(&fs) == nil && fs.Bavail*uint64(fs.Bsize) >= uint64(maxWrite) {
		return fuse.OK
	}
	return st
}

// refusals are the nodes to which a write was refused lately, but for those whose
// writers have been told.
type refusals struct {
	some atomic.Bool // there are any

	mu    sync.Mutex // guards what follows
	nodes map[uint64]refusal
}

type refusal struct {
	status fuse.Status
	at     time.Time
}

// refusedFor is how long after a refusal a write fails for it. Who writes without end
// meets others; who does not may have made room since then.
const refusedFor = time.Second

func (r *refusals) add(id uint64, st fuse.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.nodes == nil {
		r.nodes = map[uint64]refusal{}
	}
	r.nodes[id] = refusal{st, time.Now()}
	r.forgetOld()
}

// forgetOld keeps those that still count. mu is held.
func (r *refusals) forgetOld() {
	maps.DeleteFunc(r.nodes, func(_ uint64, x refusal) bool { return time.Since(x.at) >= refusedFor })
	r.some.Store(len(r.nodes) > 0)
}

// pending reports whether there is one of the node.
func (r *refusals) pending(id uint64) bool {
	if !r.some.Load() {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forgetOld()
	_, is := r.nodes[id]
	return is
}

// take removes that of the node and returns it, or OK.
func (r *refusals) take(id uint64) fuse.Status {
	if !r.some.Load() {
		return fuse.OK
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.nodes[id].status
	delete(r.nodes, id)
	r.forgetOld()
	return st
}
