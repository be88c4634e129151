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
// mostly when the file is closed, and the upper's file system takes that for the
// modification. So if no time comes the file gets the one back that it had before.
//
// The kernel also hands on no time if it writes back by itself in a mount of a user
// namespace that does not have its root (fuse_get_req: EOVERFLOW). So this is done for
// data that come soon after that time only: it is never much older than they are.

const (
	// timesRecent is how old a time may be to be that of data that come only now.
	timesRecent = 100 * time.Millisecond
	// timesDelay is how long a time may come after the data, for most: the others come
	// later and count all the same.
	timesDelay = time.Second
)

// times are those that files had before collected writes.
type times struct {
	restore later // nodes for restoreLater

	// A write holds its node's lock, shared, and who sets a time alone: the kernel does
	// not wait for the one before it asks for the other.
	writing [64]sync.RWMutex

	mu     sync.Mutex // guards what follows
	before map[uint64]unix.Timespec
}

func (t *times) lock(id uint64) *sync.RWMutex { return &t.writing[id%uint64(len(t.writing))] }

func recent(t unix.Timespec) bool { return time.Since(time.Unix(t.Unix())) < timesRecent }

// beforeWrite notes the time that n, with number id, has before a collected write. The
// node's lock is held.
func (f *fileSystem) beforeWrite(id uint64, n *union.Node) {
	if n.Is(union.Written) {
		f.times.expire(id, n)
		return
	}
	var st unix.Stat_t
	if f.u.Getattr(n, &st) != nil || !recent(st.Mtim) {
		return
	}
	f.times.mu.Lock()
	defer f.times.mu.Unlock()
	if n.Is(union.Written) { // another write was first, before either
		return
	}
	if f.times.before == nil {
		f.times.before = map[uint64]unix.Timespec{}
	}
	f.times.before[id] = st.Mtim
	n.Set(union.Written)
	f.times.restore.add(id)
}

// expire forgets the time of n, with number id, if it is recent no more.
func (t *times) expire(id uint64, n *union.Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if was, noted := t.before[id]; noted && !recent(was) {
		delete(t.before, id)
		n.Clear(union.Written)
	}
}

// forget forgets the time of n, with number id, and returns it if there is one.
func (t *times) forget(id uint64, n *union.Node) (was unix.Timespec, noted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !n.Clear(union.Written) {
		return was, false
	}
	was = t.before[id]
	delete(t.before, id)
	if len(t.before) == 0 {
		t.before = nil // with the memory of many
	}
	return was, true
}

// show changes st, the attributes of n, to what the kernel knew: it may have dropped the
// file and ask again.
func (t *times) show(n *union.Node, st *unix.Stat_t) {
	if !n.Is(union.Written) {
		return
	}
	id, _ := n.ID()
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.Is(union.Written) {
		st.Mtim = t.before[id]
	}
}

// restoreLater restores a node's time, but not while it is being written to.
func (f *fileSystem) restoreLater(id uint64) {
	lock := f.times.lock(id)
	if !lock.TryLock() {
		f.times.restore.add(id)
		return
	}
	defer lock.Unlock()
	f.restoreTime(id, f.node(id))
}

// restoreTime gives n the time back that it had before collected writes, if none has
// been set since. The node's lock is held alone.
func (f *fileSystem) restoreTime(id uint64, n *union.Node) {
	if n == nil {
		return
	}
	if was, noted := f.times.forget(id, n); noted {
		f.u.Setattr(n, union.SetAttr{Mtime: &was}) // if it fails it is that of the write
	}
}

// restoreTimes restores all, when no requests are left.
func (f *fileSystem) restoreTimes() {
	f.times.restore.end()
	for id := range f.times.before {
		f.restoreTime(id, f.node(id))
	}
}
