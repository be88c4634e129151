package union

import (
	"golang.org/x/sys/unix"
)

// pinData returns a descriptor of n's data, which stays open until unpin. For
// writing n must lie in the upper.
func (u *Union) pinData(n *Node, write bool) (*handle, error) {
	if h := n.openData(write); h != nil {
		return h, nil
	}
	if n.Type() != unix.S_IFREG {
		return nil, unix.EINVAL
	}
	r, err := u.ref(n)
	if err != nil {
		return nil, err
	}
	// Until the handle is stored n.loc is held, or copy-up would not see it.
	defer r.done()
	if h := n.openData(write); h != nil { // meanwhile
		return h, nil
	}
	var fd int
	writable := false
	if r.d.layer == u.upper {
		fd, writable, err = r.openWritable(u, write)
	} else {
		fd, err = r.openRead(u)
	}
	if err != nil {
		return nil, err
	}
	h := u.fds.add(fd, writable, &n.data)
	if old := n.data.Swap(h); old != nil {
		old.retire()
	}
	return h, nil
}

// openData returns the descriptor that is open, if it is open and will do, pinned.
func (n *Node) openData(write bool) *handle {
	if h := n.data.Load(); h != nil && (h.write || !write) && h.pin() {
		return h
	}
	return nil
}

// openWritable opens an object of the upper for reading and writing, or, if it cannot be
// written now and need not be, for reading only. It reports whether for both.
func (r ref) openWritable(u *Union, write bool) (fd int, both bool, err error) {
	fd, err = r.open(u, unix.O_RDWR)
	if err == nil {
		return fd, true, nil
	}
	if !write && (err == unix.EACCES || err == unix.EPERM || err == unix.EROFS || err == unix.ETXTBSY) {
		if fd, err := r.open(u, unix.O_RDONLY); err == nil {
			return fd, false, nil
		}
	}
	if err == unix.EACCES {
		fd, err = r.openDenied(u)
	}
	return fd, err == nil, err
}

// openDenied opens an object of this process's that its mode keeps from its owner:
// a program that has it open may go on, whatever the mode is by now, even if our
// descriptor was closed meanwhile for want of room.
func (r ref) openDenied(u *Union) (int, error) {
	var st unix.Stat_t
	if err := r.stat(&st); err != nil {
		return -1, err
	}
	// Set-gid of a group that is not ours would be lost.
	if st.Mode&0o600 == 0o600 || st.Mode&unix.S_ISGID != 0 || r.chmod(st.Mode&0o7777|0o600) != nil {
		return -1, unix.EACCES
	}
	fd, err := r.open(u, unix.O_RDWR)
	if back := r.chmod(st.Mode & 0o7777); err == nil && back != nil {
		unix.Close(fd)
		return -1, back
	}
	return fd, err
}

// openRead opens an object for reading. A lower's access time is not touched where
// we may prevent it. ESTALE: see verify.
func (r ref) openRead(u *Union) (int, error) {
	fd, err := r.open(u, unix.O_RDONLY|unix.O_NOATIME)
	if err == unix.EPERM {
		fd, err = r.open(u, unix.O_RDONLY)
	}
	if e := r.verify(u, fd, err); e != nil {
		if err == nil {
			unix.Close(fd)
		}
		return -1, e
	}
	return fd, nil
}

// Open returns a descriptor of its own for reading the regular file n as it
// lies in its layer; the caller closes it. It does not block on what is not a
// regular file any more, in a live layer.
func (u *Union) Open(n *Node) (int, error) {
	if n.Type() != unix.S_IFREG {
		return -1, unix.EINVAL
	}
	r, err := u.ref(n)
	if err != nil {
		return -1, err
	}
	defer r.done()
	return r.openRead(u)
}

// Read reads into buf from offset off and returns how many bytes there were;
// fewer than len(buf) only at the end of the file.
func (u *Union) Read(n *Node, buf []byte, off int64) (int, error) {
	h, err := u.pinData(n, false)
	if err != nil {
		return 0, err
	}
	defer h.unpin()
	return pread(h.fd, buf, off)
}

// Write writes data at offset off, copying n up first. killPriv says that the
// writer may not keep the file's suid and sgid bits.
func (u *Union) Write(n *Node, data []byte, off int64, killPriv bool) error {
	return u.WriteBy(n, killPriv, func(fd int) error { return pwrite(fd, data, off) })
}

// WriteBy is Write of what write, which is called once at most, writes to the
// descriptor fd.
func (u *Union) WriteBy(n *Node, killPriv bool, write func(fd int) error) error {
	h, err := u.pinWrite(n, -1)
	if err != nil {
		return err
	}
	defer h.unpin()
	if killPriv {
		if err := u.dropPriv(h.fd); err != nil {
			return err
		}
	}
	return write(h.fd)
}

// pinWrite is pinData for writing; it copies n up, at most size bytes of it.
func (u *Union) pinWrite(n *Node, size int64) (*handle, error) {
	if h := n.openData(true); h != nil {
		return h, nil
	}
	if err := u.copyUp(n, size); err != nil {
		return nil, err
	}
	return u.pinData(n, true)
}

func (u *Union) truncate(n *Node, size int64, killPriv bool) error {
	h, err := u.pinWrite(n, size)
	if err != nil {
		return err
	}
	defer h.unpin()
	if killPriv {
		if err := u.dropPriv(h.fd); err != nil {
			return err
		}
	}
	for {
		if err := unix.Ftruncate(h.fd, size); err != unix.EINTR {
			return err
		}
	}
}

// dropPriv removes suid, and sgid from a file that its group may execute. The
// server is privileged itself, so the kernel does not do it for it.
func (u *Union) dropPriv(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	r := ref{fd: fd}
	r.override(u.upper, &st)
	mode := WithoutPriv(st.Mode)
	if mode == st.Mode {
		return nil
	}
	if u.overrides(mode) {
		return u.setOverride(r, st, nil, nil, &mode)
	}
	return unix.Fchmod(fd, mode&0o7777)
}

// WithoutPriv returns mode without the bits that go when one who may not keep them
// changes the file: set-uid, and set-gid where the group may execute.
func WithoutPriv(mode uint32) uint32 {
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	return mode &^ unix.S_ISUID
}

// Fallocate is fallocate(2) on n.
func (u *Union) Fallocate(n *Node, mode uint32, off, length int64) error {
	h, err := u.pinWrite(n, -1)
	if err != nil {
		return err
	}
	defer h.unpin()
	for {
		if err := unix.Fallocate(h.fd, mode, off, length); err != unix.EINTR {
			return err
		}
	}
}

// Seek is lseek(2) with SEEK_DATA, SEEK_HOLE or SEEK_END.
func (u *Union) Seek(n *Node, off int64, whence int) (int64, error) {
	h, err := u.pinData(n, false)
	if err != nil {
		return 0, err
	}
	defer h.unpin()
	return unix.Seek(h.fd, off, whence)
}

// CopyRange is copy_file_range(2) from src to dst. EXDEV and EOPNOTSUPP mean
// that the caller should copy by itself.
func (u *Union) CopyRange(src *Node, srcOff int64, dst *Node, dstOff int64, length int) (int, error) {
	d, err := u.pinWrite(dst, -1)
	if err != nil {
		return 0, err
	}
	defer d.unpin()
	s, err := u.pinData(src, false)
	if err != nil {
		return 0, err
	}
	defer s.unpin()
	for {
		n, err := unix.CopyFileRange(s.fd, &srcOff, d.fd, &dstOff, length, 0)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// Fsync makes n's data and attributes durable. It does nothing for an object
// of a lower layer or in a volatile union.
func (u *Union) Fsync(n *Node) error {
	if u.volatile || u.upper == nil || !n.inUpper() {
		return nil
	}
	if n.dir() != nil {
		h, err := n.dir().upper.Load().pin(u)
		if err != nil {
			return err
		}
		defer h.unpin()
		return unix.Fsync(h.fd)
	}
	h, err := u.pinData(n, false)
	if err != nil {
		return err
	}
	defer h.unpin()
	return unix.Fsync(h.fd)
}

func pread(fd int, buf []byte, off int64) (int, error) {
	done := 0
	for done < len(buf) {
		n, err := unix.Pread(fd, buf[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, err
		}
		if n == 0 {
			break
		}
		done += n
	}
	return done, nil
}

func pwrite(fd int, data []byte, off int64) error {
	for len(data) > 0 {
		n, err := unix.Pwrite(fd, data, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		data, off = data[n:], off+int64(n)
	}
	return nil
}
