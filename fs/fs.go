// Package fs serves a union over FUSE: it decodes the frequent requests (go-fuse
// the others) and merges nothing (package union does), but decides what the
// kernel may cache and for how long, and translates attributes and ids.
//
// OPEN, CREATE, OPENDIR, FLUSH and ACCESS are answered with ENOSYS, once: from
// then on the kernel sends none of them, nor RELEASE, and keeps page and
// directory caches over them. All state therefore hangs on the node. The kernel's
// writeback cache is on: size and times of an open file are the kernel's.
package fs

import (
	"math"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"plash/internal/fusedev"
	"plash/union"
)

// forever is how long the kernel may cache what only changes through it: as
// long as a Duration can say, 292 years.
const forever = time.Duration(math.MaxInt64)

// live is how long the kernel may cache what shows a live layer.
const live = 1 * time.Second

// fileSystem implements fuse.RawFileSystem. Node numbers are the union's.
type fileSystem struct {
	fuse.RawFileSystem
	u       *union.Union
	ids     *idMap // nil: the kernel speaks in our ids
	hasLow  bool   // some layer is live
	device  *fusedev.Device
	minor   uint32       // of the kernel's protocol version
	lost    atomic.Int32 // the errno of the first write that failed, see LostWrite
	refused refusals
	opens   atomic.Int32 // how many OPENs are still answered
	blocks  later        // nodes for askBlocks
	forget  later        // nodes whose attributes the kernel is to forget, see told
	times   times

	collects bool  // the kernel collects writes, and has times of its own
	relists  bool  // the kernel forgets attributes of files that are closed
	relist   later // directories for dropList

	timeout                      time.Duration
	noXattrs, noACL, staticNlink bool // see Options
}

func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	if errno, ok := err.(syscall.Errno); ok {
		return fuse.Status(errno)
	}
	return fuse.EIO
}

func (f *fileSystem) String() string             { return "plash" }
func (f *fileSystem) node(id uint64) *union.Node { return f.u.ByID(id) }

// attr fills out from st, the attributes of n.
func (f *fileSystem) attr(out *fuse.Attr, n *union.Node, st *unix.Stat_t) {
	f.times.show(n, st)
	out.Ino = st.Ino
	out.Size = uint64(st.Size)
	out.Blocks = uint64(st.Blocks)
	out.Atime, out.Atimensec = uint64(st.Atim.Sec), uint32(st.Atim.Nsec)
	out.Mtime, out.Mtimensec = uint64(st.Mtim.Sec), uint32(st.Mtim.Nsec)
	out.Ctime, out.Ctimensec = uint64(st.Ctim.Sec), uint32(st.Ctim.Nsec)
	out.Mode = st.Mode
	out.Nlink = uint32(st.Nlink)
	if f.staticNlink && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		out.Nlink = 1
	}
	out.Uid, out.Gid = f.ids.outUID(st.Uid), f.ids.outGID(st.Gid)
	out.Rdev = uint32(st.Rdev)
	out.Blksize = uint32(st.Blksize)
}

// entry fills out for node n with attributes st.
func (f *fileSystem) entry(out *fuse.EntryOut, parent, n *union.Node, st *unix.Stat_t) {
	out.NodeId, out.Generation = n.ID()
	n.Set(union.Told)
	f.attr(&out.Attr, n, st)
	t := f.cacheTime(n)
	out.SetAttrTimeout(f.told(n, t, true))
	out.SetEntryTimeout(t)
}

// askAgain lets the kernel forget n's attributes, but not its data.
func (f *fileSystem) askAgain(n *union.Node) {
	id, _ := n.ID()
	f.device.InvalidateAttributes(id) // fails if the kernel does not know it any more
}

// cacheTime is how long the kernel may cache what it is told about n.
func (f *fileSystem) cacheTime(n *union.Node) time.Duration {
	if f.hasLow && n.Live() {
		return min(live, f.timeout)
	}
	return f.timeout
}

func (f *fileSystem) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir := f.node(h.NodeId)
	var st unix.Stat_t
	n, err := f.u.LookupStat(dir, name, &st)
	if err == unix.ENOENT {
		// A node 0 with a time is a name that the kernel may remember as missing.
		out.NodeId = 0
		out.SetEntryTimeout(f.cacheTime(dir))
		return fuse.OK
	}
	if err != nil {
		return status(err)
	}
	f.entry(out, dir, n, &st)
	return fuse.OK
}

func (f *fileSystem) Forget(id, count uint64) {
	if n := f.node(id); n != nil {
		if n.Is(union.Written) {
			f.times.lock(id).Lock()
			f.restoreTime(id, n)
			f.times.lock(id).Unlock()
		}
		f.u.Forget(n, count)
	}
}

func (f *fileSystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := f.node(in.NodeId)
	if in.Flags()&fuse.FUSE_GETATTR_FH != 0 {
		if st := f.refusal(n); st != fuse.OK {
			return st
		}
	}
	n.Set(union.Told) // before the attributes are read: data may be written meanwhile
	f.looksAt(n)
	st := f.attrOut(n, out)
	out.SetTimeout(f.told(n, f.cacheTime(n), true))
	return st
}

func (f *fileSystem) attrOut(n *union.Node, out *fuse.AttrOut) fuse.Status {
	var st unix.Stat_t
	if err := f.u.Getattr(n, &st); err != nil {
		return status(err)
	}
	f.attr(&out.Attr, n, &st)
	return fuse.OK
}

func (f *fileSystem) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := f.node(in.NodeId)
	var a union.SetAttr
	if mode, ok := in.GetMode(); ok {
		a.Mode = &mode
	}
	if in.Valid&fuse.FATTR_UID != 0 {
		uid := f.ids.inUID(in.Owner.Uid)
		a.UID = &uid
	}
	if in.Valid&fuse.FATTR_GID != 0 {
		gid := f.ids.inGID(in.Owner.Gid)
		a.GID = &gid
	}
	if size, ok := in.GetSize(); ok {
		s := int64(size)
		a.Size = &s
	}
	if a.UID != nil && *a.UID == noID || a.GID != nil && *a.GID == noID {
		return fuse.EINVAL // an id that our namespace does not have
	}
	a.KillPriv = in.Valid&fuse.FATTR_KILL_SUIDGID != 0
	if changesNothing(in) {
		var err error
		if a.KillPriv, err = f.killsPriv(n, in); err != nil {
			return status(err)
		}
	}
	if in.Valid&fuse.FATTR_ATIME != 0 {
		a.Atime = &unix.Timespec{Sec: int64(in.Atime), Nsec: int64(in.Atimensec)}
		if in.Valid&fuse.FATTR_ATIME_NOW != 0 {
			a.Atime = &unix.Timespec{Nsec: unix.UTIME_NOW}
		}
	}
	if in.Valid&fuse.FATTR_MTIME != 0 {
		a.Mtime = &unix.Timespec{Sec: int64(in.Mtime), Nsec: int64(in.Mtimensec)}
		if in.Valid&fuse.FATTR_MTIME_NOW != 0 {
			a.Mtime = &unix.Timespec{Nsec: unix.UTIME_NOW}
		}
	}
	if a.Mtime != nil && f.collects {
		lock := f.times.lock(in.NodeId)
		lock.Lock()
		defer lock.Unlock()
		f.times.forget(in.NodeId, n)
	}
	if err := f.u.Setattr(n, a); err != nil {
		return status(err)
	}
	// When the kernel hands its times on, it does not read the reply.
	reads := in.Valid&^fuse.FATTR_FH != fuse.FATTR_MTIME|fuse.FATTR_CTIME
	if reads {
		n.Set(union.Told)
	}
	out.SetTimeout(f.told(n, f.cacheTime(n), reads))
	return f.attrOut(n, out)
}

// changesNothing reports whether a request names nothing to be changed: it is for
// set-id bits or capabilities to be dropped.
func changesNothing(in *fuse.SetAttrIn) bool {
	const changes = fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID | fuse.FATTR_SIZE | fuse.FATTR_ATIME | fuse.FATTR_MTIME
	return in.Valid&changes == 0
}

// killsPriv reports whether a request that changes nothing is for set-id bits to
// be dropped: chown(2) to -1 and -1, which of a regular file is known by its
// ctime, or fallocate(2) and writing by one who may not keep them. Otherwise it
// is for capabilities alone, which the upper's file system drops at the write.
func (f *fileSystem) killsPriv(n *union.Node, in *fuse.SetAttrIn) (bool, error) {
	writes := n.Type() == unix.S_IFREG && in.Valid&fuse.FATTR_CTIME == 0
	if writes && (f.collects || in.Caller.Uid == 0) {
		return in.Caller.Uid != 0, nil
	}
	return true, f.mayKillPriv(n, &in.InHeader, writes)
}

// mayKillPriv returns EPERM if the caller may not take n's set-id bits, and what
// goes with them, since n is another's: everybody may call chown(2) with -1 and
// -1, but not of such a file. That is ours to say, as the kernel takes the change
// of the mode out of the request before it checks it (fuse_setattr). A stranger who
// writes takes them, too. If it is not known that he does, he is taken for one who
// could have opened the file for that.
func (f *fileSystem) mayKillPriv(n *union.Node, in *fuse.InHeader, perhapsWrites bool) error {
	if in.Caller.Uid == 0 || n.Type() == unix.S_IFDIR {
		return nil
	}
	var st unix.Stat_t
	if err := f.u.Getattr(n, &st); err != nil {
		return err
	}
	if union.WithoutPriv(st.Mode) == st.Mode || in.Caller.Uid == f.ids.outUID(st.Uid) || perhapsWrites && st.Mode&0o022 != 0 {
		return nil
	}
	return unix.EPERM
}

func (f *fileSystem) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	target, err := f.u.Readlink(f.node(h.NodeId))
	return []byte(target), status(err)
}

// Access is not needed: the kernel checks permissions ("default_permissions"),
// or, on a mount that only its user may enter, leaves it to us.
func (f *fileSystem) Access(_ <-chan struct{}, in *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }

func (f *fileSystem) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	var st unix.Statfs_t
	if err := f.u.Statfs(&st); err != nil {
		return status(err)
	}
	out.Blocks, out.Bfree, out.Bavail = st.Blocks, st.Bfree, st.Bavail
	out.Files, out.Ffree = st.Files, st.Ffree
	out.Bsize, out.NameLen, out.Frsize = uint32(st.Bsize), uint32(st.Namelen), uint32(st.Frsize)
	return fuse.OK
}
