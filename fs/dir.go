package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"plash/union"
)

func (f *fileSystem) creation(h *fuse.InHeader, mode, umask uint32) union.Creation {
	return union.Creation{Mode: mode, Umask: umask, UID: f.ids.inUID(h.Uid), GID: f.ids.inGID(h.Gid)}
}

// made answers a request that created n in directory dir.
func (f *fileSystem) made(out *fuse.EntryOut, dir uint64, n *union.Node, st *unix.Stat_t, err error) fuse.Status {
	if err != nil {
		return status(err)
	}
	f.entry(out, f.node(dir), n, st)
	return fuse.OK
}

func (f *fileSystem) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	n, st, err := f.u.Mkdir(f.node(in.NodeId), name, f.creation(&in.InHeader, in.Mode, in.Umask))
	return f.made(out, in.NodeId, n, st, err)
}

func (f *fileSystem) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	dir, c := f.node(in.NodeId), f.creation(&in.InHeader, in.Mode, in.Umask)
	if in.Mode&unix.S_IFMT == unix.S_IFREG { // mostly open(2), see Create
		n, st, err := f.u.Create(dir, name, c)
		return f.made(out, in.NodeId, n, st, err)
	}
	n, st, err := f.u.Mknod(dir, name, c, in.Rdev)
	return f.made(out, in.NodeId, n, st, err)
}

func (f *fileSystem) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	n, st, err := f.u.Symlink(f.node(h.NodeId), name, target, f.creation(h, 0, 0))
	return f.made(out, h.NodeId, n, st, err)
}

// Create makes and opens a file, as long as OPENs are answered. Then it is "not
// implemented", once and for all: the kernel makes files by MKNOD instead, and
// opens them as all others, which saves a RELEASE for each.
func (f *fileSystem) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if !f.answersOpen() {
		return fuse.ENOSYS
	}
	n, st, err := f.u.Create(f.node(in.NodeId), name, f.creation(&in.InHeader, in.Mode, in.Umask))
	return f.made(&out.EntryOut, in.NodeId, n, st, err)
}

func (f *fileSystem) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	n, st, err := f.u.Tmpfile(f.node(in.NodeId), f.creation(&in.InHeader, in.Mode, in.Umask))
	return f.made(&out.EntryOut, in.NodeId, n, st, err)
}

func (f *fileSystem) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	n := f.node(in.Oldnodeid)
	st, err := f.u.Link(n, f.node(in.NodeId), name)
	return f.made(out, in.NodeId, n, st, err)
}

func (f *fileSystem) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return status(f.u.Unlink(f.node(h.NodeId), name))
}

func (f *fileSystem) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return status(f.u.Rmdir(f.node(h.NodeId), name))
}

func (f *fileSystem) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	return status(f.u.Rename(f.node(in.NodeId), oldName, f.node(in.Newdir), newName, uint(in.Flags)))
}

// OpenDir lets the kernel keep directories cached, once and for all, unless
// there is a live layer: a listing is then asked for anew at each opening.
func (f *fileSystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if f.hasLow {
		return fuse.OK
	}
	return fuse.ENOSYS
}

func (f *fileSystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return status(f.u.ReadDirAt(f.node(in.NodeId), in.Offset, func(e union.Dirent, cookie uint64) bool {
		return out.AddDirEntry(fuse.DirEntry{Name: e.Name, Ino: e.Ino, Mode: e.Type, Off: cookie})
	}))
}

// ReadDirPlus looks up what it lists; a name that has vanished meanwhile, or
// cannot be looked up, is listed without.
func (f *fileSystem) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	dir := f.node(in.NodeId)
	if in.Offset == 0 {
		f.toldList(dir)
	}
	next := in.Offset
	err := f.u.ReadDirAt(dir, in.Offset, func(e union.Dirent, cookie uint64) bool {
		plus := out.AddDirLookupEntry(fuse.DirEntry{Name: e.Name, Ino: e.Ino, Mode: e.Type, Off: cookie})
		if plus == nil {
			return false
		}
		next = cookie
		*plus = fuse.EntryOut{}
		if e.Name == "." || e.Name == ".." {
			return true
		}
		var st unix.Stat_t
		if n, err := f.u.LookupStat(dir, e.Name, &st); err == nil {
			f.entry(plus, dir, n, &st)
		}
		return true
	})
	if err == nil {
		dir.LookedUp(next)
	}
	return status(err)
}

func (f *fileSystem) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return f.fsync(in)
}
