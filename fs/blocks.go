package fs

import (
	"sync"
	"time"

	"plash/union"
)

// A blockCounts has the kernel ask again how many blocks a file has, soon after
// it wrote to it. Of a file whose writes it collects it knows size and times by
// itself, but not st_blocks, until the file is closed: one that is created,
// written and kept open would have none, which "tar --sparse" takes for a hole.
type blockCounts struct {
	notify func(n *union.Node)

	mu    sync.Mutex // guards what follows
	stale []*union.Node
	timer *time.Timer // set while there are any
	ended bool
}

// blocksDelay is how long a count may be wrong. By then most files are closed,
// and their attributes asked for if anybody needs them.
const blocksDelay = 500 * time.Millisecond

// wrote notes that the kernel has written to n what it had collected.
func (b *blockCounts) wrote(n *union.Node) {
	if !n.Told.CompareAndSwap(true, false) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return
	}
	b.stale = append(b.stale, n)
	if b.timer == nil {
		b.timer = time.AfterFunc(blocksDelay, b.tell)
	}
}

func (b *blockCounts) tell() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.stale {
		if !b.ended && !n.Told.Load() {
			b.notify(n)
		}
	}
	b.stale, b.timer = nil, nil
}

// end waits for what is under way and lets nothing more happen.
func (b *blockCounts) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
}
