package union

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Programs that go through a tree mostly read the files of a directory in the
// order in which they are listed. If the disk is slow, those that come next are
// read ahead, as the kernel does within one file, into the kernel's cache: while
// a program waits for a file here, the disk and a processor have nothing to do.
// "grep -r" over 10,000 files of 2 kB that are not cached, 100 in a directory,
// takes 1.1 times as long as in the kernel's overlayfs instead of 1.7 times, with
// 20 in a directory 1.3 times. (To read directories ahead as well gained nothing.)

const (
	aheadFiles = 16        // so many are read ahead,
	aheadSize  = 256 << 10 // none that is larger,
	aheadNames = 10000     // in no larger directory;
	aheadGap   = 8         // the program may leave out so many names
)

// ahead is what a directory remembers of files that are read in its order. It is
// under listMu.
type ahead struct {
	last  int // the position behind the last one
	until int // those before this position have been read ahead; 0: none
}

// A reader reads ahead, one batch at a time.
type reader struct {
	busy atomic.Bool
	done sync.WaitGroup
}

// ReadAhead is told that the file n has been read from its start, and whether
// that was slow.
func (u *Union) ReadAhead(n *Node, slow bool) {
	n.loc.Lock()
	d, name := n.parent.dir(), n.name()
	n.loc.Unlock()
	names := d.next(name, slow, u.ahead.busy.Load())
	if len(names) == 0 || !u.ahead.busy.CompareAndSwap(false, true) {
		return
	}
	u.ahead.done.Go(func() {
		for _, name := range names {
			u.fetch(d, name)
		}
		u.ahead.busy.Store(false)
	})
}

// next returns the files that should be read ahead, now that the one of this
// name has been read, none if the reader is busy.
func (d *dirState) next(name string, slow, busy bool) (names []string) {
	if !d.listMu.TryLock() { // it is being listed, which may take long: the reply must not wait
		return nil
	}
	defer d.listMu.Unlock()
	l, a := d.list.Load(), &d.ahead
	if a.until == 0 && !slow || l == nil || l.size > aheadNames || d.live {
		return nil
	}
	i, ok := l.position(name)
	if !ok {
		return nil
	}
	skipped := i - a.last
	a.last = i + 1
	if skipped < 0 || skipped > aheadGap {
		a.until = 0
		return nil
	}
	if busy || a.until > i+aheadFiles/2 {
		return nil
	}
	a.until = max(a.until, i+1)
	for ; a.until < l.size && len(names) < aheadFiles; a.until++ {
		if e := l.at(a.until); e.Type == unix.S_IFREG {
			names = append(names, e.Name)
		}
	}
	return names
}

// fetch lets the kernel read a file, and does not wait for it.
func (u *Union) fetch(d *dirState, name string) {
	h, err := u.find(d, name)
	if err != nil {
		return
	}
	defer h.drop()
	if h.st.Mode&unix.S_IFMT != unix.S_IFREG || h.st.Size > aheadSize {
		return
	}
	dir, err := h.in.pin(u)
	if err != nil {
		return
	}
	defer dir.unpin()
	fd, err := ref{fd: dir.fd, name: name, d: h.in}.openRead(u)
	if err != nil {
		return
	}
	unix.Fadvise(fd, 0, 0, unix.FADV_WILLNEED)
	unix.Close(fd)
}
