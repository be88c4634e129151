package fs

import (
	"sync"
	"time"
)

// A later has something done a while after the first of a number of nodes asked
// for it, for all that did by then.
type later struct {
	delay time.Duration
	do    func(node uint64) // the node may be forgotten by then

	mu    sync.Mutex // guards what follows
	nodes []uint64
	timer *time.Timer // set while there are any
	ended bool
}

func (l *later) add(node uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.nodes = append(l.nodes, node)
	if l.timer == nil {
		l.timer = time.AfterFunc(l.delay, l.run)
	}
}

func (l *later) run() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, node := range l.nodes {
		if !l.ended {
			l.do(node)
		}
	}
	l.nodes, l.timer = nil, nil
}

// end waits for what is under way and lets nothing more happen.
func (l *later) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}
