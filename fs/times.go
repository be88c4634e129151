package fs

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"plash/union"
)

// Of a file whose writes it collects the kernel knows the modification time by itself.
// It hands that on if it has changed: not if a program has written in the same tick of
// the clock in which it made the file, or wrote before. Then it hands on the data alone,
// at some time, and the upper's file system takes that for the modification. So if no
// time comes a while after the data the file gets the one back that it had before them.

// timesDelay is that while. The kernel hands times on just after the data.
const timesDelay = 500 * time.Millisecond

// times are those that files had before collected writes.
type times struct {
	restore later // nodes for restoreSoon

	// A write holds its node's lock, shared, and who sets a time alone: the kernel does
	// not wait for the one before it asks for the other.
	writing [16]sync.RWMutex

	mu     sync.Mutex // guards what follows
	before map[uint64]unix.Timespec
}

func (t *times) lock(id uint64) *sync.RWMutex { return &t.writing[id%uint64(len(t.writing))] }

// beforeWrite notes the time that n, with number id, has before a collected write. The
// node's lock is held.
func (f *fileSystem) beforeWrite(id uint64, n *union.Node) {
	if n.Is(union.Written) {
		return
	}
	f.times.mu.Lock()
	defer f.times.mu.Unlock()
	var st unix.Stat_t
	if n.Is(union.Written) || f.u.Getattr(n, &st) != nil {
		return // another write was first, or this one fails, too
	}
	if f.times.before == nil {
		f.times.before = map[uint64]unix.Timespec{}
	}
	f.times.before[id] = st.Mtim
	n.Set(union.Written)
	f.times.restore.add(id)
}

// restoreSoon is restoreTime, unless the node is just being written to.
func (f *fileSystem) restoreSoon(id uint64) {
	lock := f.times.lock(id)
	if !lock.TryLock() {
		f.times.restore.add(id)
		return
	}
	defer lock.Unlock()
	f.restoreTime(id)
}

// restoreTime gives a node the time back that it had before collected writes, if none
// has been set since. The node's lock is held alone.
func (f *fileSystem) restoreTime(id uint64) {
	f.times.mu.Lock()
	was, noted := f.times.before[id]
	delete(f.times.before, id)
	f.times.mu.Unlock()
	if n := f.node(id); noted && n != nil && n.Clear(union.Written) {
		f.u.Setattr(n, union.SetAttr{Mtime: &was}) // if it fails it is that of the write
	}
}
