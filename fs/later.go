package fs

import (
	"sync"
	"sync/atomic"
	"time"
)

// A later has something done a while after the first of a number of nodes asked
// for it, for all that did by then. Requests add nodes: they never wait for what
// is done, which may itself wait for a request.
type later struct {
	delay time.Duration
	do    func(node uint64) // the node may be forgotten by then

	running sync.Mutex // held while it is done
	ended   atomic.Bool

	mu    sync.Mutex // guards what follows
	nodes []uint64
	timer *time.Timer // set while there are any
}

func (l *later) add(node uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nodes = append(l.nodes, node)
	if l.timer == nil {
		l.timer = time.AfterFunc(l.delay, l.run)
	}
}

func (l *later) run() {
	l.running.Lock()
	defer l.running.Unlock()
	l.mu.Lock()
	nodes := l.nodes
	l.nodes, l.timer = nil, nil
	l.mu.Unlock()
	for _, node := range nodes {
		if l.ended.Load() {
			return
		}
		l.do(node)
	}
}

// end waits for what is under way and lets nothing more happen.
func (l *later) end() {
	l.ended.Store(true)
	l.running.Lock()
	defer l.running.Unlock()
}
