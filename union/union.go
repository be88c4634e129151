// Package union merges a stack of directory trees (layers) into one tree, as
// the kernel's overlayfs does, in user space and without mounting anything.
//
// The layers below (lowers) are only read. If there is an upper layer, every
// change goes there: a file of a lower layer is copied up before it is
// changed, a removed one is hidden by a whiteout, and a directory that hides
// what lies below is marked opaque. The upper directory is at any time a plain
// upper of overlayfs mounted with "userxattr"; see
// https://docs.kernel.org/filesystems/overlayfs.html for the format.
//
// The package knows nothing of FUSE. Its errors are bare syscall.Errno values,
// except those of New.
//
// # Locks
//
// A dirState's mu serialises changes of one merged directory; ancestors come
// first. A node's copy lock serialises its copy-up; descendants come first, and a
// dirState's mu may be held meanwhile. A node's loc guards where its object
// lies; it is held for single system calls only, a node's before its parent's,
// and nothing but descriptors is waited for under it. Long work, copying data
// above all, is done under the copy lock alone.
package union

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/internal/layerindex"
)

// Layer names one layer's directory.
type Layer struct {
	Path string
	// Beside says that Path is relative to the directory of the layer above,
	// the one before it in the list, and that this layer stays where it is as
	// long as that one is locked. The paths of many layers that lie in one
	// another are short then, and quickly followed.
	Beside bool
	// Live says that the tree is not ours and may change while it is used: the
	// host's own root. Names in it are opened without entering network, FUSE
	// or pseudo file systems mounted below it, and its files are identified by
	// inode, change time and size together.
	Live bool
	// Foreign says that others than plash may have written the layer:
	// whiteouts of OCI images and the attributes by which fuse-overlayfs
	// stores owners count in it.
	Foreign bool
	// Index is the path of the layer's index, relative to Path, or empty; see
	// WriteIndex. One that is missing or of no use here does no harm. A live or
	// foreign layer has none.
	Index string
}

// Config describes a union.
type Config struct {
	Lowers []Layer // topmost first; at least one unless there is an upper
	// Upper and Work are directories on one file system, both empty for a
	// read-only union. Work belongs to the union alone while it is open.
	Upper, Work string
	// Volatile: the upper is thrown away or not sealed yet, so Fsync need not
	// reach the disk.
	Volatile bool
	// Redirect: a lower directory is renamed without being copied, by a mark
	// that the kernel understands, too ("redirect_dir=on"). Only real root can
	// write that; for others it has no effect.
	Redirect bool
	// NoDevices: whiteouts are not written as devices, as if mknod(2) were
	// refused.
	NoDevices bool
	// XattrPermissions stores owners and modes in attributes of the upper's
	// files: 0 no, 1 "security.fuseoverlayfs.override_stat", 2
	// "user.containers.override_stat".
	XattrPermissions int
}

// Union is a merged tree. All methods may be called concurrently.
type Union struct {
	// CopiedUp, unless nil, is called for each directory that was copied up,
	// mostly for something in it: its number of links is another one now.
	CopiedUp func(dir *Node)
	// Shrunk, unless nil, is called after most nodes have been forgotten: memory
	// can be given back then.
	Shrunk func()

	ahead    reader
	upper    *layer // nil if read-only
	layers   []*layer
	work     *layerDir // where objects are prepared before they appear in upper
	volatile bool
	redirect bool     // see Config
	trusted  bool     // we may use attributes that begin with "trusted."
	prefixes []string // of the marks that are written
	root     *Node
	nodes    nodeMaker
	table    table
	fds      fdCache
	devs     devices
	origins  origins
	copies   nodeLocks // copy locks
	unlinked sync.Map  // key of a lower object → Node.links, where names are left
	white    whiteouts
	renameMu sync.Mutex // held over renames between two directories
	locks    []int      // descriptors that hold flocks on the layers' roots
	indexes  []*layerindex.Index
	// distrusted counts the indexes that were given up.
	distrusted atomic.Uint32
	tmpSeq     atomic.Uint64
	nHeld      atomic.Int64
	euid       int
	egid       int
	aclOff     bool // the upper's file system has no ACLs
	overflow   bool // this namespace maps no file owner to the overflow id
}

// maxLowers is as many as a key tells apart, with the upper and Cover's.
const maxLowers = math.MaxUint16 - 1

// New opens the layers and returns their union. It holds a shared flock(2) on
// the root of each lower that is not live, and an exclusive one on Work: a
// second user of the same work directory gets "changes directory in use", after
// a moment in which the first one may end.
// Left-overs in the work directory are removed. The caller must Close it.
func New(c Config) (*Union, error) {
	if len(c.Lowers) == 0 && c.Upper == "" {
		return nil, fmt.Errorf("union: no layers")
	}
	if len(c.Lowers) > maxLowers {
		return nil, fmt.Errorf("union: %d layers, more than %d", len(c.Lowers), maxLowers)
	}
	u := &Union{volatile: c.Volatile, euid: os.Geteuid(), egid: os.Getegid(), trusted: realRoot()}
	u.white.files = c.NoDevices
	u.redirect = c.Redirect && u.trusted
	for _, l := range c.Lowers {
		u.redirect = u.redirect && !l.Live
	}
	u.fds.init()
	u.overflow = !mapsOverflowID()
	if err := u.open(c); err != nil {
		u.Close()
		return nil, err
	}
	return u, nil
}

func (u *Union) open(c Config) error {
	if c.Upper != "" {
		if err := u.openUpper(c); err != nil {
			return err
		}
	}
	for i, l := range c.Lowers {
		var above *layer
		if l.Beside && i > 0 {
			above = u.layers[i-1]
		}
		ly, err := u.openLayer(l, above)
		if err != nil {
			return err
		}
		u.layers = append(u.layers, ly)
	}
	return u.makeRoot()
}

// Cover puts one more lower layer on top of the others. It is for a union that
// is not in use yet: of its nodes only the root may be held, which is another
// one afterwards. After an error the union can only be closed.
func (u *Union) Cover(l Layer) error {
	ly, err := u.openLayer(l, nil)
	if err != nil {
		return err
	}
	for i, below := range u.layers {
		below.id = uint32(i + 2)
	}
	ly.id = 1
	u.layers = append([]*layer{ly}, u.layers...)
	u.table = table{}
	return u.makeRoot()
}

// Close gives up all descriptors and locks. No other method may be running or
// be called afterwards.
func (u *Union) Close() error {
	u.ahead.done.Wait()
	u.table.ids.each(func(n *Node) { u.release(n) })
	u.fds.closeAll()
	for _, fd := range u.locks {
		unix.Close(fd)
	}
	u.locks = nil
	for _, x := range u.indexes {
		x.Close()
	}
	u.indexes = nil
	return nil
}

// Root returns the node of the root directory. It needs no Forget.
func (u *Union) Root() *Node { return u.root }

// ReadOnly reports whether the union has no upper layer.
func (u *Union) ReadOnly() bool { return u.upper == nil }

// Volatile reports what Config.Volatile said.
func (u *Union) Volatile() bool { return u.volatile }

// HasACLs reports whether ACLs can be stored in the upper layer, or for a
// read-only union whether the topmost layer's file system knows them.
func (u *Union) HasACLs() bool { return !u.aclOff }

// KeepsModes reports whether owners and modes are kept in an attribute of the upper's
// objects, see Config.XattrPermissions. Then there are no ACLs in the whole union: a
// mode and an ACL each change the other, and a lower object's could not be copied up.
func (u *Union) KeepsModes() bool { return u.upper != nil && u.upper.override != "" }

// makeRoot builds the root node from the layers' roots. A root that is opaque
// hides all below it.
func (u *Union) makeRoot() error {
	var stack []*layerDir
	if u.upper != nil {
		stack = append(stack, u.upper.root)
	}
	for _, l := range u.layers {
		if len(stack) > 0 && stack[len(stack)-1].opaque(u) {
			break
		}
		stack = append(stack, l.root)
	}
	top := stack[0]
	var st unix.Stat_t
	if err := top.stat(u, &st); err != nil {
		return err
	}
	n := &Node{typ: typeOf(unix.S_IFDIR)}
	n.setDir(newDirState(stack))
	n.key = u.keyOf(top.layer, &st)
	n.ino = u.shownIno(&hit{st: st, in: top, dirs: stack}, ".")
	n.refs.Store(math.MaxInt32) // the kernel never forgets the root
	u.root = n
	u.table.ids.add(n)
	u.table.add(n, nil)
	_, err := unix.Getxattr(fdPath(top.h.Load().fd), aclAccess, nil)
	u.aclOff = err == unix.EOPNOTSUPP
	return nil
}

// tmpName returns a name that no other object in the work directory has. It
// has the form overlayfs uses there.
func (u *Union) tmpName() string {
	return "#" + strconv.FormatUint(u.tmpSeq.Add(1), 16)
}

// patience is how long to wait for the server of a mount that has just gone: it
// ends a moment after umount(8).
const patience = 2 * time.Second

func (u *Union) lock(path string, how int, busy string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return errs.Path(path, err)
	}
	makeRoom(fd)
	if err := flock(fd, how); err != nil {
		unix.Close(fd)
		if err == unix.EWOULDBLOCK {
			return fmt.Errorf("%s: %s", path, busy)
		}
		return errs.Path(path, err)
	}
	u.locks = append(u.locks, fd)
	return nil
}

// flock is flock(2) with patience: EWOULDBLOCK if that ends first.
func flock(fd, how int) error {
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Flock(fd, how|unix.LOCK_NB)
		if err != unix.EINTR && (err != unix.EWOULDBLOCK || time.Since(begin) > patience) {
			return err
		}
	}
}

// devices numbers the file systems that the layers lie on, in the order in
// which they are met.
type devices struct {
	m sync.Map // st_dev → uint32
	n atomic.Uint32
}

func (d *devices) index(dev uint64) uint32 {
	if v, ok := d.m.Load(dev); ok {
		return v.(uint32)
	}
	v, _ := d.m.LoadOrStore(dev, d.n.Add(1)-1)
	return v.(uint32)
}

// known is index of a device that some layer has been seen to lie on.
func (d *devices) known(dev uint64) (uint32, bool) {
	v, ok := d.m.Load(dev)
	if !ok {
		return 0, false
	}
	return v.(uint32), true
}

// inode returns the number shown for inode ino of file system number dev: the
// number itself on the first file system, else with the file system's number
// in the top byte, as overlayfs does with xino. Numbers that need the top byte
// themselves are spread by a multiplication instead.
func inode(dev uint32, ino uint64) uint64 {
	if dev == 0 {
		return ino
	}
	if ino>>56 == 0 && dev < 128 {
		return ino | uint64(dev)<<56
	}
	return (ino+uint64(dev))*0x9e3779b97f4a7c15 | 1<<63
}

// HasLive reports whether some layer is live.
func (u *Union) HasLive() bool {
	for _, l := range u.layers {
		if l.live {
			return true
		}
	}
	return false
}
