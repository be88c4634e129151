package union

import "sync"

// nodeLocks are a lock for each node, which takes memory only while somebody
// holds it or waits for it.
type nodeLocks struct {
	mu    sync.Mutex // guards what follows
	locks map[*Node]*nodeLock
}

type nodeLock struct {
	sync.Mutex
	users int // who holds it or waits for it
}

// lock locks n, of which the caller has a lookup, and returns what unlocks it.
func (l *nodeLocks) lock(n *Node) (unlock func()) {
	l.mu.Lock()
	lock := l.locks[n]
	if lock == nil {
		if l.locks == nil {
			l.locks = map[*Node]*nodeLock{}
		}
		lock = &nodeLock{}
		l.locks[n] = lock
	}
	lock.users++
	l.mu.Unlock()
	lock.Lock()
	return func() {
		lock.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if lock.users--; lock.users == 0 {
			delete(l.locks, n)
		}
	}
}
