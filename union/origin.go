package union

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// origins remembers which number was shown for an object of the upper layer
// before it was copied up, so that st_ino stays the same. An upper that is to
// last keeps that in an attribute of the object, "INO DEV LOWERINO": it counts
// for the object with this number only, so not for a copy, and while a layer
// lies on that device. The directory that holds the object is marked impure,
// as the kernel does it, so that others need not be asked.
type origins struct {
	m sync.Map // upper inode → shown inode
}

func (o *origins) set(upper, shown uint64) {
	if upper != shown {
		o.m.Store(upper, shown)
	}
}

func (o *origins) get(upper uint64) (uint64, bool) {
	v, ok := o.m.Load(upper)
	if !ok {
		return 0, false
	}
	return v.(uint64), true
}

func (o *origins) drop(upper uint64) { o.m.Delete(upper) }

// keepsOrigins reports whether the upper layer lasts.
func (u *Union) keepsOrigins() bool { return !u.volatile }

// saveOrigin notes at the object dst of the upper, which has number upper and
// is no directory entry yet or keeps its name, that it was the lower object k.
// Where it cannot be noted, on a symlink without privileges, it is not.
func (u *Union) saveOrigin(dst ref, typ uint32, upper uint64, dev uint64, k key) {
	if !u.keepsOrigins() {
		return
	}
	prefix := u.hintPrefix()
	if prefix == userPrefix && typ != unix.S_IFREG && typ != unix.S_IFDIR {
		return
	}
	value := fmt.Appendf(nil, "%d %d %d", upper, dev, k.ino)
	if dst.name == "" {
		unix.Setxattr(dst.path(), prefix+originAttr, value, 0)
	} else {
		unix.Lsetxattr(dst.path(), prefix+originAttr, value, 0)
	}
}

// noteImpure marks directory d of the upper as one that holds an object with
// an origin.
func (u *Union) noteImpure(d *layerDir) {
	if u.keepsOrigins() {
		u.setMark(d, markImpure, impureAttr, "y")
	}
}

// moved marks d if the object with this number, which comes into it, has an
// origin.
func (u *Union) moved(d *layerDir, upper uint64) {
	if _, ok := u.origins.get(upper); ok {
		u.noteImpure(d)
	}
}

// loadOrigin learns what was noted at name in d by an earlier mount.
func (u *Union) loadOrigin(d *layerDir, name string, upper uint64) {
	if !u.found || d.layer != u.upper || d.mark(u)&markImpure == 0 {
		return
	}
	if _, ok := u.origins.get(upper); ok {
		return
	}
	h, err := d.pin(u)
	if err != nil {
		return
	}
	defer h.unpin()
	v, err := getxattr(ref{fd: h.fd, name: name}, u.hintPrefix()+originAttr)
	if err != nil {
		return
	}
	var self, dev, ino uint64
	if n, _ := fmt.Sscanf(string(v), "%d %d %d", &self, &dev, &ino); n != 3 || self != upper {
		return
	}
	if i, ok := u.devs.known(dev); ok {
		u.origins.set(upper, inode(i, ino))
	}
}
