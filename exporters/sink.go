package exporters

import (
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// bufferSize is how much is collected before it is written.
	bufferSize = 256 << 10
	// leastMoved is from which size on it pays to move data into a pipe.
	leastMoved = 64 << 10
	// pipeSize is how much a pipe may hold at least: more than by default, so that its
	// two ends wait for each other less often. The kernel lets any user have it
	// (fs.pipe-max-size).
	pipeSize = 1 << 20
)

// A sink is what an archive is written to. It remembers how writing failed.
type sink struct {
	w    io.Writer
	err  error
	st   unix.Stat_t     // of a file
	pipe syscall.RawConn // nil if it is no pipe
}

func newSink(w io.Writer) *sink {
	s := &sink{w: w}
	f, ok := w.(*os.File)
	if !ok {
		return s
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return s
	}
	conn.Control(func(fd uintptr) {
		if unix.Fstat(int(fd), &s.st) == nil && s.st.Mode&unix.S_IFMT == unix.S_IFIFO {
			s.pipe = conn
			if size, err := unix.FcntlInt(fd, unix.F_GETPIPE_SZ, 0); err == nil && size < pipeSize {
				unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize)
			}
		}
	})
	return s
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

// is reports whether the sink is the regular file with these attributes.
func (s *sink) is(st *unix.Stat_t) bool {
	return s.st.Mode&unix.S_IFMT == unix.S_IFREG && s.st.Dev == st.Dev && s.st.Ino == st.Ino
}

// move lets the kernel hand the pipe what it has of the file fd, without copying
// it. It returns how much that was: whatever keeps it from going on, an error
// too, is met again by who copies the rest.
func (s *sink) move(fd int, x extent) (done int64) {
	s.pipe.Write(func(pipe uintptr) bool {
		for done < x.size {
			off := x.off + done
			n, err := unix.Splice(fd, &off, int(pipe), nil, int(min(x.size-done, pipeSize)), 0)
			if err == unix.EINTR {
				continue
			}
			if err == unix.EAGAIN {
				return false // wait for the other end
			}
			if err != nil || n == 0 {
				break
			}
			done += n
		}
		return true
	})
	return done
}
