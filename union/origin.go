package union

import (
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// origins remembers which number was shown for an object of the upper layer
// before it was copied up, so that st_ino stays the same. It is also kept in an
// attribute of the object, "INO DEV LOWERINO", which counts for the object with
// this number only, so not for a copy, and while a layer lies on that device.
// The directory that holds the object is marked, so that those in others need
// not be asked.
type origins struct {
	shards [originShards]originShard
	// stored: some objects have an attribute that is not remembered here.
	stored atomic.Bool
}

const originShards = 16

// An originShard is for the objects whose numbers are the same modulo
// originShards: there may be millions.
type originShard struct {
	mu    sync.Mutex        // guards all
	shown map[uint64]uint64 // by the number in the upper
	// unstored are those that are remembered here alone.
	unstored map[uint64]struct{}
	peak     int // the most there were since shown was made
}

func (o *origins) shard(upper uint64) *originShard { return &o.shards[upper%originShards] }

func (o *origins) set(upper, shown uint64, stored bool) {
	if upper == shown {
		return
	}
	s := o.shard(upper)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(upper)
	if s.shown == nil {
		s.shown, s.unstored = map[uint64]uint64{}, map[uint64]struct{}{}
	}
	s.shown[upper] = shown
	s.peak = max(s.peak, len(s.shown))
	if !stored {
		s.unstored[upper] = struct{}{}
	}
}

func (o *origins) get(upper uint64) (uint64, bool) {
	s := o.shard(upper)
	s.mu.Lock()
	defer s.mu.Unlock()
	shown, ok := s.shown[upper]
	return shown, ok
}

func (o *origins) drop(upper uint64) {
	s := o.shard(upper)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(upper)
}

// forget drops what can be read again.
func (o *origins) forget(k key) {
	s := o.shard(k.ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.shown[k.ino]; !ok || k.layer != 0 {
		return
	}
	if _, ok := s.unstored[k.ino]; !ok {
		o.stored.Store(true)
		s.drop(k.ino)
	}
}

// drop removes an entry; as a map never takes less memory than it once did, few
// that are left get new ones. mu is held.
func (s *originShard) drop(upper uint64) {
	delete(s.shown, upper)
	delete(s.unstored, upper)
	if n := len(s.shown); s.peak > 64 && n < s.peak/8 {
		s.shown, s.unstored, s.peak = maps.Collect(maps.All(s.shown)), maps.Collect(maps.All(s.unstored)), n
	}
}

// saveOrigin notes at the object dst of the upper, which has number upper and
// is no directory entry yet or keeps its name, that it was the lower object k.
// Where it cannot be noted, on a symlink without privileges, it is not.
func (u *Union) saveOrigin(dst ref, typ uint32, upper uint64, dev uint64, k key) (saved bool) {
	prefix := u.hintPrefix()
	if prefix == userPrefix && typ != unix.S_IFREG && typ != unix.S_IFDIR {
		return false
	}
	value := fmt.Appendf(nil, "%d %d %d", upper, dev, k.ino)
	return dst.setxattr(prefix+originAttr, value, 0) == nil
}

// noteOrigin marks directory d of the upper as one that holds an object with
// an origin.
func (u *Union) noteOrigin(d *layerDir) { u.setMark(d, markOrigins, originsAttr, "y") }

// moved marks d if the object with this number, which comes into it, has an
// origin.
func (u *Union) moved(d *layerDir, upper uint64) {
	if _, ok := u.origins.get(upper); ok {
		u.noteOrigin(d)
	}
}

// storedOrigin returns the number that is noted at name in d, the object with
// number upper.
func (u *Union) storedOrigin(d *layerDir, name string, upper uint64) (uint64, bool) {
	if !u.origins.stored.Load() || d.layer != u.upper || d.mark(u)&markOrigins == 0 {
		return 0, false
	}
	h, err := d.pin(u)
	if err != nil {
		return 0, false
	}
	defer h.unpin()
	v, err := getxattr(ref{fd: h.fd, name: name}, u.hintPrefix()+originAttr)
	if err != nil {
		return 0, false
	}
	var self, dev, ino uint64
	if n, _ := fmt.Sscanf(string(v), "%d %d %d", &self, &dev, &ino); n != 3 || self != upper {
		return 0, false
	}
	i, ok := u.devs.known(dev)
	return inode(i, ino), ok
}

// loadOrigin remembers what is noted at name in d, where it is about to become
// a node.
func (u *Union) loadOrigin(d *layerDir, name string, upper uint64) {
	if _, ok := u.origins.get(upper); ok || d.layer != u.upper {
		return
	}
	if shown, ok := u.storedOrigin(d, name, upper); ok {
		u.origins.set(upper, shown, true)
	}
}
