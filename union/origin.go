package union

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Which number was shown for an object of the upper layer before it was copied
// up, so that st_ino stays the same, is known by its node, and kept in an
// attribute of the object, "INO DEV LOWERINO", which counts for the object with
// this number only, so not for a copy, and while a layer lies on that device.
// The directory that holds the object is marked, so that those in others need
// not be asked.
//
// origins are those of objects that do not have the attribute, as they cannot, by
// their number in the upper.
type origins struct {
	mu     sync.Mutex // guards shown
	shown  map[uint64]uint64
	stored atomic.Bool // some objects have the attribute
}

func (o *origins) set(upper, shown uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.shown == nil {
		o.shown = map[uint64]uint64{}
	}
	o.shown[upper] = shown
}

func (o *origins) get(upper uint64) (uint64, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	shown, ok := o.shown[upper]
	return shown, ok
}

func (o *origins) drop(upper uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.shown, upper)
}

// setOrigin remembers that the object dst of the upper, which has number upper and
// is no directory entry yet or keeps its name, was the lower object with number
// lower on dev, and that n, whose it is, is shown as before.
func (u *Union) setOrigin(n *Node, dst ref, upper, dev, lower uint64) {
	if u.saveOrigin(dst, n.Type(), upper, dev, lower) {
		u.origins.stored.Store(true)
		u.origins.drop(upper) // of an earlier object with this number
	} else {
		u.origins.set(upper, n.ino)
	}
}

// saveOrigin reports whether it could be noted at the object: on a symlink it
// cannot without privileges.
func (u *Union) saveOrigin(dst ref, typ uint32, upper, dev, lower uint64) bool {
	prefix := u.hintPrefix()
	if prefix == userPrefix && typ != unix.S_IFREG && typ != unix.S_IFDIR {
		return false
	}
	var few [64]byte
	value := strconv.AppendUint(few[:0], upper, 10)
	value = strconv.AppendUint(append(value, ' '), dev, 10)
	value = strconv.AppendUint(append(value, ' '), lower, 10)
	return dst.setxattr(prefix+originAttr, value, 0) == nil
}

// noteOrigin marks directory d of the upper as one that holds an object with
// an origin.
func (u *Union) noteOrigin(d *layerDir) { u.setMark(d, markOrigins, originsAttr, "y") }

// moved marks d if n, which comes into it, has an origin. n.loc is held.
func (u *Union) moved(d *layerDir, n *Node) {
	if n.ino != inode(n.key.device(), n.key.ino) {
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
