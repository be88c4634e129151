package importers

import (
	"bytes"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"plash/internal/fileattr"
)

// A newFile is a regular file that the archive has named: it is open, and what
// it holds and its attributes are still to come.
type newFile struct {
	fd     int
	member int // its place in the archive
	name   string
	attr   *fileattr.Attributes
	size   int64       // in bytes, of what it holds
	first  []byte      // the first piece of what it holds
	more   chan []byte // the other pieces
}

// noMore is the rest of a file of one piece.
var noMore = make(chan []byte)

func init() { close(noMore) }

// writers fill new files beside the unpacking, which goes on with the names:
// what takes long is to hand the kernel the data. They know files by their
// descriptors alone, so a name may be replaced or linked to meanwhile.
type writers struct {
	attributes func(*newFile) error
	files      chan *newFile
	pieces     chan []byte // free buffers
	running    sync.WaitGroup

	broken atomic.Bool // there is an error
	mu     sync.Mutex  // guards what follows
	err    error       // of the first member in the archive that failed
	member int
}

const (
	pieceSize = 256 << 10
	numPieces = 16
	// maxWriters: more get into each other's way in the file system.
	maxWriters = 4
	// huge is the size from which on it is found out before whether a file can be
	// as large: a few bytes of an archive say so of a sparse one, whose zeros take a
	// minute and a half for each TB.
	huge = 1 << 40
)

// startWriters starts writers that set attributes by this function.
func startWriters(attributes func(*newFile) error) *writers {
	w := &writers{
		attributes: attributes,
		files:      make(chan *newFile, numPieces),
		pieces:     make(chan []byte, numPieces),
	}
	for range numPieces {
		w.pieces <- nil // made when it is needed
	}
	for range min(max(1, runtime.GOMAXPROCS(0)-1), maxWriters) {
		w.running.Go(func() {
			for f := range w.files {
				w.fill(f)
			}
		})
	}
	return w
}

// finish waits for all files and returns the error of the first that failed.
func (w *writers) finish() error {
	close(w.files)
	w.running.Wait()
	return w.err
}

// take gives f, which is closed in the end, the size bytes that r holds. The
// error is one of reading; the others come with finish.
func (w *writers) take(f *newFile, r io.Reader, size int64) (err error) {
	f.size = size
	f.first, err = w.read(r, &size)
	if size == 0 || err != nil {
		f.more = noMore
		select {
		case w.files <- f:
		default:
			w.fill(f) // there is enough for the others to do
		}
		return err
	}
	f.more = make(chan []byte, numPieces)
	defer close(f.more)
	w.files <- f
	for size > 0 && err == nil && !w.broken.Load() {
		var piece []byte
		piece, err = w.read(r, &size)
		f.more <- piece
	}
	return err
}

// read waits for a free buffer and returns the part of it that it fills with what
// r holds, of which size bytes are missing.
func (w *writers) read(r io.Reader, size *int64) ([]byte, error) {
	buf := <-w.pieces
	if buf == nil {
		buf = make([]byte, pieceSize)
	}
	n, err := io.ReadFull(r, buf[:min(*size, pieceSize)])
	*size -= int64(n)
	if err == nil && *size == 0 {
		// Only at the end archive/tar says what is wrong with a sparse file.
		var none [1]byte
		if _, end := r.Read(none[:]); end != io.EOF {
			err = end
		}
	}
	return buf[:n], err
}

// fill writes what f holds and sets its attributes.
func (w *writers) fill(f *newFile) {
	defer unix.Close(f.fd)
	if err := w.write(f); err != nil {
		w.fail(f, err)
		for piece := range f.more {
			w.release(piece)
		}
	}
}

func (w *writers) write(f *newFile) error {
	if f.size > huge {
		if err := unix.Ftruncate(f.fd, f.size); err != nil {
			return err
		}
	}
	out := content{fd: f.fd}
	err := out.write(f.first)
	w.release(f.first)
	if err != nil {
		return err
	}
	for piece := range f.more {
		err := out.write(piece)
		w.release(piece)
		if err != nil {
			return err
		}
	}
	if out.size > pieceSize {
		// The disk may begin with it, instead of getting all in the end.
		unix.SyncFileRange(f.fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	if err := out.end(); err != nil {
		return err
	}
	return w.attributes(f)
}

func (w *writers) release(piece []byte) { w.pieces <- piece[:cap(piece)] }

func (w *writers) fail(f *newFile, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil || f.member < w.member {
		w.err, w.member = fileattr.At(f.name, err), f.member
	}
	w.broken.Store(true)
}

// hole is the least number of zeros that become a hole.
const hole = 4096

// A content is what a file holds, while it is written. Blocks of zeros become
// holes: that keeps the ones of sparse files, which archive/tar fills with zeros.
type content struct {
	fd            int
	size, written int64 // written: without the hole at the end
}

// write adds data, of which all but the last has whole blocks.
func (c *content) write(data []byte) error {
	for len(data) > 0 {
		length := min(hole, len(data))
		if length == hole && isZero(data[:hole]) {
			c.size += hole
			data = data[hole:]
			continue
		}
		for length < len(data) {
			next := data[length:min(length+hole, len(data))]
			if len(next) == hole && isZero(next) {
				break
			}
			length += len(next)
		}
		if err := pwrite(c.fd, data[:length], c.size); err != nil {
			return err
		}
		c.size += int64(length)
		c.written = c.size
		data = data[length:]
	}
	return nil
}

func (c *content) end() error {
	if c.size == c.written {
		return nil
	}
	return fileattr.Retry(func() error { return unix.Ftruncate(c.fd, c.size) })
}

var zeros [hole]byte

func isZero(p []byte) bool { return bytes.Equal(p, zeros[:len(p)]) }

func pwrite(fd int, p []byte, off int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}
