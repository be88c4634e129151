package union

import "sync"

// nodeLocks are a lock for each node, which takes memory only while somebody
// holds it or waits for it.
type nodeLocks struct {
	mu    sync.Mutex // guards what follows
	locks map[*Node]*nodeLock
	spare *nodeLock // to be used again
}

type nodeLock struct {
	mu    sync.Mutex
	in    *nodeLocks
	node  *Node
	users int // who holds it or waits for it
}

// lock locks n, of which the caller has a lookup, until unlock.
func (l *nodeLocks) lock(n *Node) *nodeLock {
	l.mu.Lock()
	lock := l.locks[n]
	if lock == nil {
		if l.locks == nil {
			l.locks = map[*Node]*nodeLock{}
		}
		if lock, l.spare = l.spare, nil; lock == nil {
			lock = &nodeLock{in: l}
		}
		lock.node = n
		l.locks[n] = lock
	}
	lock.users++
	l.mu.Unlock()
	lock.mu.Lock()
	return lock
}

func (lock *nodeLock) unlock() {
	lock.mu.Unlock()
	l := lock.in
	l.mu.Lock()
	defer l.mu.Unlock()
	if lock.users--; lock.users == 0 {
		delete(l.locks, lock.node)
		lock.node = nil
		l.spare = lock
	}
}
