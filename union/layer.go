package union

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/internal/layerindex"
)

// A layer is one directory tree of the stack.
type layer struct {
	id     uint32 // 0 is the upper
	path   string // for messages only, as is
	above  *layer // to which path is relative, or nil
	root   *layerDir
	live   bool
	mounts *mountTable                      // of a live layer
	dev    uint32                           // the root's file system, see devices
	device uint64                           // as st_dev
	index  atomic.Pointer[layerindex.Index] // nil: there is none (any more)
	// attrs is the index, also after it was given up, if its attributes are as this
	// process sees them; nil if not.
	attrs     *layerindex.Index
	indexName string // relative to the root
	// foreign: owners that our user namespace does not map are shown as root.
	foreign  bool
	dots     bool   // whiteouts may be names with ".wh." before them
	override string // the attribute that holds owners and modes, or ""
	noACLs   bool   // the ACLs of its objects do not count, see KeepsModes
	// These system calls did not work between it and the upper, nor will they;
	// it is one file system mostly.
	noClone, noCopyRange atomic.Bool
}

// A layerDir is a directory of one layer, found by its parent in that layer
// and its name: a path string is never built, and its descriptor can be closed
// and opened again at any time. Location and descriptor of a lower never
// change; an upper directory is moved by rename.
type layerDir struct {
	layer *layer
	h     atomic.Pointer[handle]

	mu     sync.Mutex // guards the location and the opening
	parent *layerDir  // nil for a layer's root
	name   string
	mount  *mountPoint // of a live layer: the mount table's node here, if any

	marks atomic.Uint32 // what opaque and xwhiteouts found, once asked
	block uint32        // where the layer's index has its names; 0: nowhere
	ino   uint64        // as the index says; 0: not known
}

const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW

// where returns the layer's path.
func (l *layer) where() string {
	if l.above == nil {
		return l.path
	}
	return filepath.Join(l.above.where(), l.path)
}

// openLayer opens a layer; above is the one that it lies beside, if any.
func (u *Union) openLayer(l Layer, above *layer) (*layer, error) {
	ly := &layer{id: uint32(len(u.layers) + 1), path: l.Path, above: above, live: l.Live, noACLs: u.KeepsModes()}
	from := unix.AT_FDCWD
	if above != nil {
		from = above.root.h.Load().fd
	}
	fd, err := u.openat(from, l.Path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, errs.Path(ly.where(), err)
	}
	ly.root = &layerDir{layer: ly}
	h := &handle{fd: fd} // outside the cache: a root cannot be opened again
	h.state.Store(1)
	ly.root.h.Store(h)
	u.locks = append(u.locks, fd)
	if !l.Live {
		if err := ly.lock(fd); err != nil {
			return nil, errs.Path(ly.where(), err)
		}
	} else {
		if ly.mounts, err = newMountTable(l.Path); err != nil {
			return nil, err
		}
		ly.root.mount = ly.mounts.root()
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errs.Path(ly.where(), err)
	}
	ly.dev, ly.device = u.devs.index(st.Dev), st.Dev
	if l.Index != "" && !l.Live && !l.Foreign && !ly.noACLs { // it knows modes with ACLs
		u.openIndex(ly, fd, l.Index, &st)
	}
	if l.Foreign {
		ly.dots = !hasMark(fdPath(fd), formatAttr)
		ly.override = overrideOf(fd)
	}
	// A layer of our own may well hold files of "nobody", whose id is the same
	// as the one shown for owners without a mapping: only a layer whose root
	// has such an owner is somebody else's.
	ly.foreign = l.Live || u.overflow || st.Uid == overflowID
	return ly, nil
}

// lock takes a shared lock on the layer's root, fd. Who removes a layer holds
// an exclusive one while it vanishes, so it may be gone afterwards; so does who
// has it as work directory, for as long as it is mounted.
func (l *layer) lock(fd int) error {
	if err := flock(fd, unix.LOCK_SH); err == unix.EWOULDBLOCK {
		return errors.New("it is being removed, or is the work directory of a mount")
	} else if err != nil {
		return err
	}
	if l.above != nil {
		return nil
	}
	var have, there unix.Stat_t
	if err := fstat(fd, &have); err != nil {
		return err
	}
	if err := unix.Stat(l.path, &there); err != nil {
		return err
	}
	if have.Ino != there.Ino || have.Dev != there.Dev {
		return unix.ENOENT
	}
	return nil
}

func (u *Union) openUpper(c Config) error {
	if err := u.lock(c.Work, unix.LOCK_EX, "changes directory in use"); err != nil {
		return err
	}
	ly, err := u.openLayer(Layer{Path: c.Upper}, nil)
	if err != nil {
		return err
	}
	ly.id = 0
	if lockUpper(u.locks[1]) == unix.EWOULDBLOCK {
		return fmt.Errorf("%s: upper directory in use", c.Upper)
	}
	if err := u.sameMount(c); err != nil {
		return err
	}
	if ly.override = overrideOf(u.locks[1]); ly.override == "" {
		ly.override = overrideAttrs[c.XattrPermissions]
	}
	ly.noACLs = ly.override != ""
	u.upper = ly
	if err := u.openWork(u.locks[0]); err != nil {
		return err
	}
	found := false
	err = readDirFD(u.locks[1], func(rawDirent) bool { found = true; return false })
	if err != nil {
		return errs.Path(c.Upper, err)
	}
	u.origins.stored.Store(found)
	return u.adoptUpper(found)
}

// lockUpper keeps other unions from having the directory fd as their upper, too;
// EWOULDBLOCK if one has, see patience. As a lower layer they may: podman looks for
// what is in a layer by mounting it so, while containers have it below them. Hence
// this is another kind of lock than that of lock, one of the open file (fcntl(2)), and
// one for reading, as directories cannot be open for writing; but it shows in the
// question for one for writing. A file system without such locks goes without.
func lockUpper(fd int) error {
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		ours := unix.Flock_t{Type: unix.F_RDLCK}
		if unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &ours) != nil {
			return nil
		}
		others := unix.Flock_t{Type: unix.F_WRLCK}
		if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &others); err != nil || others.Type == unix.F_UNLCK {
			return nil
		}
		ours.Type = unix.F_UNLCK
		unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &ours)
		if time.Since(begin) > patience {
			return unix.EWOULDBLOCK
		}
	}
}

// sameMount returns an error if nothing can be renamed from the work directory to the
// upper.
func (u *Union) sameMount(c Config) error {
	var work, upper unix.Stat_t
	if err := fstat(u.locks[0], &work); err != nil {
		return errs.Path(c.Work, err)
	}
	if err := fstat(u.locks[1], &upper); err != nil {
		return errs.Path(c.Upper, err)
	}
	// The kernel compares the mounts before it finds that a directory's "." is none
	// of its names.
	if work.Dev != upper.Dev || renameat2(u.locks[0], ".", u.locks[1], ".", 0) == unix.EXDEV {
		return fmt.Errorf("%s: workdir must lie on the file system of upperdir, and not be another mount of it", c.Work)
	}
	return nil
}

// overflowID is what stat(2) shows for an owner without a mapping, the
// kernel's default of /proc/sys/kernel/overflowuid.
const overflowID = 65534

// mapsOverflowID reports whether this user namespace maps some id to 65534, so
// that a file can really be owned by it.
func mapsOverflowID() bool {
	if len(idMaps().uid) == 0 {
		return true
	}
	for line := range strings.Lines(string(idMaps().uid)) {
		w := strings.Fields(line)
		if len(w) != 3 {
			continue
		}
		first, _ := strconv.ParseUint(w[0], 10, 32)
		count, _ := strconv.ParseUint(w[2], 10, 64)
		if first <= overflowID && overflowID < first+count {
			return true
		}
	}
	return false
}

// pin returns the directory's descriptor, opened if it must be, which stays
// open until unpin. It may be an O_PATH one where reading is not permitted.
func (d *layerDir) pin(u *Union) (*handle, error) {
	if h := d.h.Load(); h != nil && h.pin() {
		return h, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if h := d.h.Load(); h != nil && h.pin() {
		return h, nil
	}
	if d.synthetic() {
		return nil, unix.ENOENT
	}
	p, err := d.parent.pin(u)
	if err != nil {
		return nil, err
	}
	defer p.unpin()
	fd, err := d.open(u, p.fd, dirFlags)
	if err == unix.EACCES {
		fd, err = d.open(u, p.fd, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	}
	if err != nil {
		return nil, err
	}
	h := u.fds.add(fd, false, &d.h)
	d.h.Store(h)
	return h, nil
}

func (d *layerDir) open(u *Union, parent int, flags int) (int, error) {
	if d.layer.live && d.mount == nil {
		return openBeneathMount(parent, d.name, flags)
	}
	return u.openat(parent, d.name, flags, 0)
}

// synthetic reports whether d stands for a mount point that is not entered:
// an empty directory that exists nowhere.
func (d *layerDir) synthetic() bool { return d.mount != nil && !d.mount.enter }

func (d *layerDir) stat(u *Union, st *unix.Stat_t) error {
	if d.synthetic() {
		d.mount.stat(st)
		return nil
	}
	h, err := d.pin(u)
	if err != nil {
		return err
	}
	defer h.unpin()
	err = fstat(h.fd, st)
	if err == nil {
		ref{fd: h.fd}.override(d.layer, st)
	}
	return err
}

// drop closes the descriptor when its last user has left.
func (d *layerDir) drop() {
	if h := d.h.Load(); h != nil && d.parent != nil {
		h.retire()
	}
}

// child returns the layerDir of the directory name in d.
func (d *layerDir) child(name string) *layerDir {
	c := &layerDir{layer: d.layer, parent: d, name: name}
	if d.layer.live {
		c.mount = d.mount.child(name)
	}
	return c
}

// lstat fills st with what name in d is, without following it. In a live layer
// it does not enter mount points, nor ask those for anything.
func (d *layerDir) lstat(u *Union, name string, st *unix.Stat_t) error {
	if d.synthetic() {
		return unix.ENOENT
	}
	h, err := d.pin(u)
	if err != nil {
		return err
	}
	defer h.unpin()
	if d.layer.live {
		return d.lstatLive(h.fd, name, st)
	}
	err = fstatat(h.fd, name, st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		ref{fd: h.fd, name: name}.override(d.layer, st)
	}
	return err
}

func fstat(fd int, st *unix.Stat_t) error {
	return fstatat(fd, "", st, unix.AT_EMPTY_PATH)
}
