package union

import "sync"

// A table finds nodes by number and by key. A node leaves it when its count of
// lookups falls to zero: whoever sets the count from 0 to forgotten removes it,
// and a forgotten node is never handed out again.
//
// A node's key is guarded by its loc and, while the table finds the node by it,
// by the lock of its shard as well.
type table struct {
	shards [1 << shardBits]shard
	ids    ids
}

// A shard is a part of the table by key: numbers of nodes, found by hashes of
// their keys, each in the first free slot from the one that its hash says.
type shard struct {
	mu    sync.Mutex // guards all
	slots []uint32   // 0 is free; as many as a power of two
	count int
	// lows finds nodes by the keys of the lower objects that they were, too.
	lows map[key]*Node
	many bool // lows takes much memory, though it may be empty
}

const (
	shardBits = 6
	fewSlots  = 8
	odd       = 0x9e3779b97f4a7c15
)

func (k key) hash() uint64 {
	return ((uint64(k.layer)<<48|uint64(k.dev)<<32|uint64(k.ver))*odd ^ k.ino) * odd
}

// shard returns the number of k's shard: the highest bits of the hash.
func (k key) shard() uint64 { return k.hash() >> (64 - shardBits) }

func (t *table) shard(k key) *shard { return &t.shards[k.shard()] }

// slot returns the first place for k: the next bits of the hash.
func (s *shard) slot(k key) int { return int(k.hash()<<shardBits>>32) & (len(s.slots) - 1) }

// find returns the slot of the node with key k, or the free one where it would
// be. There must be a free one.
func (s *shard) find(ids *ids, k key) int {
	i := s.slot(k)
	for s.slots[i] != 0 && ids.get(uint64(s.slots[i])).key != k {
		i = (i + 1) & (len(s.slots) - 1)
	}
	return i
}

// node returns the node of k, or nil.
func (s *shard) node(ids *ids, k key) *Node {
	if s.count > 0 {
		if id := s.slots[s.find(ids, k)]; id != 0 {
			return ids.get(uint64(id))
		}
	}
	return s.lows[k]
}

// put enters n by its key, in place of another node with that key.
func (s *shard) put(ids *ids, n *Node) {
	if (s.count+1)*4 > len(s.slots)*3 {
		s.resize(ids, max(2*len(s.slots), fewSlots))
	}
	i := s.find(ids, n.key)
	if s.slots[i] == 0 {
		s.count++
	}
	s.slots[i] = n.id
}

// remove takes n out, unless another node has its key now.
func (s *shard) remove(ids *ids, n *Node) {
	if s.count == 0 {
		return
	}
	i := s.find(ids, n.key)
	if s.slots[i] != n.id {
		return
	}
	s.count--
	if len(s.slots) > fewSlots && s.count*8 < len(s.slots) {
		s.slots[i] = 0
		s.resize(ids, max(len(s.slots)/4, fewSlots))
		return
	}
	// What comes behind it may have to come nearer.
	mask := len(s.slots) - 1
	for free := i; ; {
		s.slots[free] = 0
		for {
			i = (i + 1) & mask
			if s.slots[i] == 0 {
				return
			}
			first := s.slot(ids.get(uint64(s.slots[i])).key)
			if (i-first)&mask >= (i-free)&mask {
				break
			}
		}
		s.slots[free] = s.slots[i]
		free = i
	}
}

func (s *shard) resize(ids *ids, size int) {
	old := s.slots
	s.slots = make([]uint32, size)
	for _, id := range old {
		if id != 0 {
			s.slots[s.find(ids, ids.get(uint64(id)).key)] = id
		}
	}
}

// get returns the node of k with one more lookup, or nil.
func (t *table) get(k key) *Node {
	s := t.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.node(&t.ids, k); n != nil && n.hold() {
		return n
	}
	return nil
}

// ino returns the number shown for the node of k, if there is one.
func (t *table) ino(k key) (uint64, bool) {
	s := t.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.node(&t.ids, k)
	if n == nil {
		return 0, false
	}
	return n.ino, true
}

// add enters n, which has a number, unless another node with its key is there,
// which it returns held. If there is none and stale, which may be nil, says so,
// it returns nil: the object has another key by now.
func (t *table) add(n *Node, stale func() bool) *Node {
	s := t.shard(n.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.node(&t.ids, n.key); old != nil && old.hold() {
		return old
	}
	if stale != nil && stale() {
		return nil
	}
	s.put(&t.ids, n)
	return n
}

// rekey makes k the key of n, which is found by its old one as well until that
// is removed with removeLow. The caller holds n.loc.
func (t *table) rekey(n *Node, k key) {
	was, is := t.shard(n.key), t.shard(k)
	t.lock(n.key, k)
	defer func() {
		was.mu.Unlock()
		if is != was {
			is.mu.Unlock()
		}
	}()
	was.remove(&t.ids, n)
	if was.lows == nil {
		was.lows = map[key]*Node{}
	}
	was.lows[n.key] = n
	was.many = was.many || len(was.lows) > fewSlots
	n.key = k
	is.put(&t.ids, n)
}

// lock locks the shards of both keys, always in the same order.
func (t *table) lock(a, b key) {
	i, j := min(a.shard(), b.shard()), max(a.shard(), b.shard())
	t.shards[i].mu.Lock()
	if i != j {
		t.shards[j].mu.Lock()
	}
}

// remove takes out n, whose lookups are all given back; low is the other key by
// which it is found, if there is one.
func (t *table) remove(n *Node, k, low key) {
	s := t.shard(k)
	s.mu.Lock()
	s.remove(&t.ids, n)
	s.mu.Unlock()
	if low != (key{}) {
		t.removeLow(low, n)
	}
}

// removeLow lets n be found no more by a key that it had before rekey.
func (t *table) removeLow(low key, n *Node) {
	s := t.shard(low)
	s.mu.Lock()
	if s.lows[low] == n {
		delete(s.lows, low)
	}
	if s.many && len(s.lows) == 0 {
		s.lows, s.many = nil, false
	}
	s.mu.Unlock()
}
