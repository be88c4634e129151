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
// time comes in the end the file gets the one back that it had before the data.

const (
	// timesDelay is how long a time may come after the data: mostly it is the next
	// request, but after sync_file_range(2) it comes when the kernel writes back what
	// is old, dirty_expire_centisecs and dirty_writeback_centisecs, 30 and 5 s.
	timesDelay = 40 * time.Second
	// timesTick is how often it is looked whether that is over.
	timesTick = 5 * time.Second
	// timesRecent is how old a time may be to be that of data that come only now. If it
	// is older the kernel has a newer one, and rather none is restored than one from
	// before a change.
	timesRecent = time.Minute
)

// times are those that files had before collected writes.
type times struct {
	restore later // nodes for restoreLater

	// A write holds its node's lock, shared, and who sets a time alone: the kernel does
	// not wait for the one before it asks for the other.
	writing [64]sync.RWMutex

	mu     sync.Mutex // guards what follows
	before map[uint64]timeBefore
}

type timeBefore struct {
	mtime unix.Timespec
	noted time.Time
}

func (t *times) lock(id uint64) *sync.RWMutex { return &t.writing[id%uint64(len(t.writing))] }

// beforeWrite notes the time that n, with number id, has before a collected write. The
// node's lock is held.
func (f *fileSystem) beforeWrite(id uint64, n *union.Node) {
	var st unix.Stat_t
	if n.Is(union.Written) || f.u.Getattr(n, &st) != nil {
		return
	}
	now := time.Now()
	if now.Sub(time.Unix(st.Mtim.Unix())) > timesRecent {
		return
	}
	f.times.mu.Lock()
	defer f.times.mu.Unlock()
	if n.Is(union.Written) { // another write was first, before either
		return
	}
	if f.times.before == nil {
		f.times.before = map[uint64]timeBefore{}
	}
	f.times.before[id] = timeBefore{st.Mtim, now}
	n.Set(union.Written)
	f.times.restore.add(id)
}

// forget forgets the time of n, with number id, and returns it if there is one.
func (t *times) forget(id uint64, n *union.Node) (was timeBefore, noted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	was = t.before[id]
	if !n.Clear(union.Written) {
		return was, false
	}
	delete(t.before, id)
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
		st.Mtim = t.before[id].mtime
	}
}

// restoreLater restores a node's time once no other one can come.
func (f *fileSystem) restoreLater(id uint64) {
	f.times.mu.Lock()
	was, noted := f.times.before[id]
	f.times.mu.Unlock()
	if !noted {
		return
	}
	lock := f.times.lock(id)
	if time.Since(was.noted) < timesDelay || !lock.TryLock() {
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
		f.u.Setattr(n, union.SetAttr{Mtime: &was.mtime}) // if it fails it is that of the write
	}
}

// restoreTimes restores all, when no requests are left.
func (f *fileSystem) restoreTimes() {
	f.times.restore.end()
	for id := range f.times.before {
		f.restoreTime(id, f.node(id))
	}
}
