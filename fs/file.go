package fs

import (
	"slices"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"plash/union"
)

// openRequests is how many OPENs are answered where Options.Opens is set. They
// let a file be copied up when it is opened for writing, as kernel overlayfs
// does it, and so fail there if it cannot be; but with them an open takes six
// times as long (33 instead of 5 µs). So they are for mounts in which little is
// opened; from then on a file is copied up when it is first changed.
const openRequests = 1000

// copyAtOpen is the size up to which a file is copied up when it is opened. An
// open that truncates looks like any other here, and should not copy much of
// what it then drops.
const copyAtOpen = 1 << 20

// answersOpen reports whether one more file is opened by request.
func (f *fileSystem) answersOpen() bool {
	return f.opens.Load() > 0 && f.opens.Add(-1) > 0
}

// Open is answered once for all, see the package comment, or after a while.
// Until then the kernel also sends RELEASE, which means nothing.
func (f *fileSystem) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if !f.answersOpen() {
		return fuse.ENOSYS
	}
	if in.Flags&unix.O_ACCMODE != unix.O_RDONLY {
		if err := f.u.CopyUpSmall(f.node(in.NodeId), copyAtOpen); err != nil {
			return status(err)
		}
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// flushesAlways is the protocol's minor version from which close(2) writes dirty
// pages back although FLUSH is not implemented: Linux 5.16, its commit "fuse:
// always flush dirty data on close(2)".
const flushesAlways = 35

func (f *fileSystem) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	if f.minor < flushesAlways {
		return fuse.OK
	}
	return fuse.ENOSYS
}

func (f *fileSystem) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n, err := f.u.Read(f.node(in.NodeId), buf, int64(in.Offset))
	if err != nil {
		return nil, status(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (f *fileSystem) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return uint32(len(data)), f.write(in, func(n *union.Node) error {
		return f.u.Write(n, data, int64(in.Offset), in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0)
	})
}

// write lets do write to the node, and notes what came of it.
func (f *fileSystem) write(in *fuse.WriteIn, do func(n *union.Node) error) fuse.Status {
	n := f.node(in.NodeId)
	cached := in.WriteFlags&fuse.WRITE_CACHE != 0
	if cached && f.collects {
		lock := f.times.lock(in.NodeId)
		lock.RLock()
		defer lock.RUnlock()
		f.beforeWrite(in.NodeId, n)
	}
	if err := do(n); err != nil {
		st := status(err)
		f.lost.CompareAndSwap(0, int32(st))
		if cached && f.collects {
			f.tellWriter(n, st)
		}
		return st
	}
	if cached {
		f.collected(n)
	}
	return fuse.OK
}

func (f *fileSystem) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	return status(f.u.Fallocate(f.node(in.NodeId), in.Mode, int64(in.Offset), int64(in.Length)))
}

// Lseek is asked for SEEK_DATA and SEEK_HOLE only. The kernel does not write
// dirty pages back before it asks, so it is told to do so where that may matter:
// invalidating an inode's pages writes them, by requests that other readers answer
// meanwhile. But it drops the clean ones, too, and they are read again: grep, which
// looks for holes, took 1.3 times as long over a cached tree.
func (f *fileSystem) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	n := f.node(in.NodeId)
	if !f.u.ReadOnly() && !f.wholeAsIs(n) {
		f.device.InvalidateInode(in.NodeId) // fails for an inode that has no pages
	}
	off, err := f.u.Seek(n, int64(in.Offset), int(in.Whence))
	out.Offset = uint64(off)
	return status(err)
}

// wholeAsIs reports whether n has no holes, whatever the kernel has not written yet.
// Through a mapping it may write what is there already; before it lets a program
// write, which may make the file longer, it asks for the capability.
func (f *fileSystem) wholeAsIs(n *union.Node) bool {
	if f.noXattrs || n.Is(union.Asked) {
		return false
	}
	hole, err := f.u.Seek(n, 0, unix.SEEK_HOLE)
	if err != nil {
		return false
	}
	end, err := f.u.Seek(n, 0, unix.SEEK_END)
	return err == nil && hole == end
}

func (f *fileSystem) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	length := int(min(in.Len, 1<<30)) // the reply has 32 bits
	n, err := f.u.CopyRange(f.node(in.NodeId), int64(in.OffIn), f.node(in.NodeIdOut), int64(in.OffOut), length)
	return uint32(n), status(err)
}

func (f *fileSystem) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	s := f.fsync(in)
	if s == fuse.OK {
		f.synced(f.node(in.NodeId))
	}
	return s
}

// fsync of a volatile upper is answered ENOSYS: to the kernel that is success,
// now and without asking ever after.
func (f *fileSystem) fsync(in *fuse.FsyncIn) fuse.Status {
	if f.u.Volatile() || f.u.ReadOnly() {
		return fuse.ENOSYS
	}
	return status(f.u.Fsync(f.node(in.NodeId)))
}

// noXattr is the answer where attributes are switched off: for all (the kernel
// then does not ask again), or for this one.
func (f *fileSystem) noXattr(name string) fuse.Status {
	switch {
	case f.noXattrs:
		return fuse.ENOSYS
	case f.noACL && isACL(name):
		return fuse.Status(unix.EOPNOTSUPP)
	}
	return fuse.OK
}

func (f *fileSystem) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if s := f.noXattr(name); s != fuse.OK {
		return 0, s
	}
	node := f.node(h.NodeId)
	if name == union.Capability {
		node.Set(union.Asked)
	}
	n, err := f.u.Getxattr(node, name, dest)
	if err == unix.ENOSYS {
		// From a filter of system calls: to the kernel it would be the answer for
		// all files and all time, and wholeAsIs relies on being asked.
		err = unix.EOPNOTSUPP
	}
	if err == nil && len(dest) > 0 {
		f.ids.aclOut(name, dest[:n])
	}
	return uint32(n), status(err)
}

func (f *fileSystem) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	if f.noXattrs {
		return 0, fuse.ENOSYS
	}
	names, err := f.u.Listxattr(f.node(h.NodeId), -1)
	if err != nil {
		return 0, status(err)
	}
	if h.Caller.Uid != 0 { // as the kernel's own file systems do, see xattr(7)
		names = slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, "trusted.") })
	}
	size := 0
	for _, name := range names {
		size += len(name) + 1
	}
	if len(dest) == 0 {
		return uint32(size), fuse.OK
	}
	if size > len(dest) {
		return uint32(size), fuse.ERANGE
	}
	buf := dest[:0]
	for _, name := range names {
		buf = append(append(buf, name...), 0)
	}
	return uint32(size), fuse.OK
}

func (f *fileSystem) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	if s := f.noXattr(name); s != fuse.OK {
		return s
	}
	f.ids.aclIn(name, data)
	n := f.node(in.NodeId)
	if name == union.Capability {
		// What is still to be written, which the kernel hands on before a change of
		// owner or mode but not before this, would take it away again.
		f.device.InvalidateInode(in.NodeId) // fails for an inode that has no pages
	}
	// The kernel says so of default ACLs, too, which grant nothing.
	kill := in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0 && name == "system.posix_acl_access"
	if err := f.u.Setxattr(n, name, data, int(in.Flags)); err != nil || !kill {
		return status(err)
	}
	var st unix.Stat_t
	if err := f.u.Getattr(n, &st); err != nil {
		return status(err)
	}
	mode := st.Mode &^ unix.S_ISGID
	return status(f.u.Setattr(n, union.SetAttr{Mode: &mode}))
}

func (f *fileSystem) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if s := f.noXattr(name); s != fuse.OK {
		return s
	}
	n := f.node(h.NodeId)
	if name == union.Capability {
		// Who is not privileged removes it by writing or by chown(2) only.
		if err := f.mayKillPriv(n, h, true); err != nil {
			return status(err)
		}
	}
	return status(f.u.Removexattr(n, name))
}
