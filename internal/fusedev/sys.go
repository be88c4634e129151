package fusedev

import (
	"io"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// buffers are a reader's. They are mapped and not allocated: the kernel gives
// them pages as they are used, and most requests use the first one only.
type buffers struct {
	mapped, in, out []byte
	pipe            *Pipe // nil until it is needed
}

func newBuffers(size int) (*buffers, error) {
	b, err := unix.Mmap(-1, 0, 2*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	return &buffers{mapped: b, in: b[:size:size], out: b[size:]}, nil
}

// empty gives the pages back, and with them what is in the buffers.
func (b *buffers) empty() {
	unix.Madvise(b.mapped, unix.MADV_DONTNEED)
	b.closePipe()
}

func (b *buffers) free() {
	unix.Munmap(b.mapped)
	b.closePipe()
}

func (b *buffers) closePipe() {
	if b.pipe != nil {
		b.pipe.close()
	}
	b.pipe = nil
}

// received is done if a system call that reads a request need not be repeated.
func received(n uintptr, errno syscall.Errno) (done bool, err error) {
	switch {
	case errno == unix.EINTR, errno == unix.ENOENT: // ENOENT: its sender has been killed meanwhile
		return false, nil
	case errno != 0:
		return true, errno
	case n == 0:
		return true, io.EOF
	}
	return true, nil
}

// tryRead reads a request without waiting for one. The Go scheduler need not
// know: the call does not sleep.
func tryRead(fd int, buf []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
		if done, err := received(n, errno); done {
			return int(n), err
		}
	}
}

// ready reports whether there is something to read.
func ready(fd int) bool {
	p := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	var now unix.Timespec
	n, _, _ := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	return n == 1
}

// sleeps returns how often this thread has waited for something.
func sleeps() int64 {
	var u unix.Rusage
	syscall.RawSyscall(unix.SYS_GETRUSAGE, unix.RUSAGE_THREAD, uintptr(unsafe.Pointer(&u)), 0)
	return int64(u.Nvcsw)
}

// processor returns the number of the one that this thread runs on.
func processor() int {
	var n uint32
	syscall.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&n)), 0, 0)
	return int(n)
}

// yield lets others that wait for this thread's processor have it.
func yield() { syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// blocksRead returns how much this program has read from disks, in blocks of 512
// bytes; always 0 where the kernel does not count it.
func blocksRead() int64 {
	var u unix.Rusage
	syscall.RawSyscall(unix.SYS_GETRUSAGE, unix.RUSAGE_SELF, uintptr(unsafe.Pointer(&u)), 0)
	return u.Inblock
}

// small is the largest reply that is written behind the Go scheduler's back.
const small = 16 << 10

// write writes a reply, unless it is empty. The error if it fails is that its
// sender, or the mount, is gone.
func write(fd int, reply []byte) {
	if len(reply) == 0 {
		return
	}
	if len(reply) > small {
		unix.Write(fd, reply)
		return
	}
	syscall.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&reply[0])), uintptr(len(reply)))
}

// At returns the T at the start of b, which must be a struct of numbers as the
// kernel lays them out, or nil if b is too short.
func At[T any](b []byte) *T {
	var t T
	if len(b) < int(unsafe.Sizeof(t)) {
		return nil
	}
	return (*T)(unsafe.Pointer(&b[0]))
}

// Size is the number of bytes of T, for use with At.
func Size[T any]() int {
	var t T
	return int(unsafe.Sizeof(t))
}
