package fusedev

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// A Pipe holds what a large request carries behind its arguments: the kernel's
// own pages, which come into a file without a copy between. Writing 256 MiB
// takes 210 ms instead of 230. (Large replies through one are no faster: measured.)
type Pipe struct {
	r, w int
	n    int // bytes in it
}

const (
	// bulk is the size from which on requests are worth it.
	bulk = 128 << 10
	// soonLarge is for how many requests after such a one another is expected.
	// Smaller ones take a little longer through a pipe.
	soonLarge = 8
	// arguments is the size of those of a WRITE, struct fuse_in_header and struct
	// fuse_write_in of linux/fuse.h.
	arguments = 80
)

// newPipe returns a pipe for requests of up to size bytes, or nil if there cannot
// be one: a user's pipes may have only so many pages, see pipe(7). The kernel
// fails a request for which the pipe has not a page each, one more for its
// arguments included.
func newPipe(size int) *Pipe {
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	p := &Pipe{r: fds[0], w: fds[1]}
	if n, err := unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, size); err != nil || n < size {
		p.close()
		return nil
	}
	return p
}

func (p *Pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// receive takes a request from the device and returns its size.
func (p *Pipe) receive(fd, size int) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(fd), 0, uintptr(p.w), 0, uintptr(size), unix.SPLICE_F_NONBLOCK)
		if done, err := received(n, errno); err != nil {
			return 0, err
		} else if done {
			p.n = int(n)
			return p.n, nil
		}
	}
}

// read reads n bytes, which are there, to the start of buf, or as many as are
// there.
func (p *Pipe) read(buf []byte) (n int) {
	for n < len(buf) && p.n > 0 {
		k, err := unix.Read(p.r, buf[n:])
		if err != nil && err != unix.EINTR || k == 0 {
			break // cannot be
		}
		if k > 0 {
			n += k
			p.n -= k
		}
	}
	return n
}

// Append appends what is in the pipe to in, as far as there is room.
func (p *Pipe) Append(in []byte) []byte {
	return in[:len(in)+p.read(in[len(in):cap(in)])]
}

// drop empties the pipe, after a write that failed.
func (p *Pipe) drop() {
	if p.n > 0 {
		p.read(make([]byte, p.n))
		p.n = 0
	}
}

// WriteTo writes what is in the pipe to the file fd, from offset off on.
func (p *Pipe) WriteTo(fd int, off int64) error {
	for p.n > 0 {
		n, err := unix.Splice(p.r, nil, fd, &off, p.n, unix.SPLICE_F_MOVE)
		switch {
		case err == unix.EINTR:
		case err == unix.EINVAL: // not into such a file
			return p.copyTo(fd, off)
		case err != nil:
			return err
		case n == 0:
			return unix.EIO // cannot be
		default:
			p.n -= int(n)
		}
	}
	return nil
}

func (p *Pipe) copyTo(fd int, off int64) error {
	buf := make([]byte, p.n)
	buf = buf[:p.read(buf)]
	for len(buf) > 0 {
		n, err := unix.Pwrite(fd, buf, off)
		if err != nil && err != unix.EINTR {
			return err
		}
		if n > 0 {
			buf, off = buf[n:], off+int64(n)
		}
	}
	return nil
}
