package union

import (
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
)

// ids numbers nodes. Numbers of forgotten nodes are given again, with another
// generation. They are kept in chunks, so that finding a node takes no lock and
// a chunk without nodes takes no memory.
type ids struct {
	chunks atomic.Pointer[[]*atomic.Pointer[chunk]]

	mu    sync.Mutex // guards what follows, and all changes
	room  []int      // chunks with free numbers, and nodes
	empty []int      // chunks that are not there
	gen   uint32
	count int
	peak  int // the most nodes since memory was given back
}

// chunkSize makes a chunk fill 32 kB, the largest size of Go's small objects.
const chunkSize = 4032

type chunk struct {
	nodes [chunkSize]atomic.Pointer[Node]
	taken [chunkSize / 64]uint64 // a bit for each number in use
	count int
}

// add gives n a number. The first one is 1, the root's.
func (t *ids) add(n *Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.room) == 0 {
		t.addChunk()
	}
	index := t.room[len(t.room)-1]
	c := (*t.chunks.Load())[index].Load()
	slot := c.take()
	if c.count == chunkSize {
		t.room = t.room[:len(t.room)-1]
	}
	t.gen++
	n.gen = t.gen
	n.id = uint32(index*chunkSize + slot)
	c.nodes[slot].Store(n)
	t.count++
	t.peak = max(t.peak, t.count)
}

func (t *ids) addChunk() {
	c := &chunk{}
	if l := len(t.empty); l > 0 {
		index := t.empty[l-1]
		t.empty = t.empty[:l-1]
		(*t.chunks.Load())[index].Store(c)
		t.room = append(t.room, index)
		return
	}
	var all []*atomic.Pointer[chunk]
	if old := t.chunks.Load(); old != nil {
		all = slices.Clip(*old)
	} else {
		c.take() // 0 is nobody's number
	}
	p := &atomic.Pointer[chunk]{}
	p.Store(c)
	all = append(all, p)
	t.chunks.Store(&all)
	t.room = append(t.room, len(all)-1)
}

// take returns a free slot and takes it.
func (c *chunk) take() int {
	for i, word := range c.taken {
		if word != ^uint64(0) {
			bit := bits.TrailingZeros64(^word)
			c.taken[i] |= 1 << bit
			c.count++
			return i*64 + bit
		}
	}
	panic("union: chunk is full")
}

// get returns the node with this number, or nil.
func (t *ids) get(id uint64) *Node {
	chunks := *t.chunks.Load()
	if id/chunkSize >= uint64(len(chunks)) {
		return nil
	}
	c := chunks[id/chunkSize].Load()
	if c == nil {
		return nil
	}
	return c.nodes[id%chunkSize].Load()
}

// remove takes n's number back. It reports whether so few nodes are left that
// memory should be given back.
func (t *ids) remove(n *Node) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	index, slot := int(n.id/chunkSize), n.id%chunkSize
	p := (*t.chunks.Load())[index]
	c := p.Load()
	c.nodes[slot].Store(nil)
	c.taken[slot/64] &^= 1 << (slot % 64)
	if c.count == chunkSize {
		t.room = append(t.room, index)
	}
	c.count--
	if c.count == 0 && index != 0 {
		p.Store(nil)
		t.room = slices.DeleteFunc(t.room, func(i int) bool { return i == index })
		t.empty = append(t.empty, index)
	}
	t.count--
	const many = 1000
	if t.peak < many || t.count > t.peak/8 {
		return false
	}
	t.peak = t.count
	return true
}

func (t *ids) each(f func(*Node)) {
	chunks := t.chunks.Load()
	if chunks == nil {
		return
	}
	for _, p := range *chunks {
		c := p.Load()
		if c == nil {
			continue
		}
		for i := range c.nodes {
			if n := c.nodes[i].Load(); n != nil {
				f(n)
			}
		}
	}
}
