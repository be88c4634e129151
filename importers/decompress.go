package importers

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/therootcompany/xz"
)

// maxWindow bounds the memory that a compressed archive can ask for, which is
// that of the window its decompressor looks back into: xz -9 uses 64 MiB,
// zstd --ultra -22 128 MiB.
const maxWindow = 128 << 20

// skippable is the first byte of a zstd frame without data; its low four bits
// are free.
const skippable = 0x50

// format is a kind of compression, told by the first bytes.
type format struct {
	magic []byte
	open  func(*bufio.Reader) (io.Reader, error)
	// garbage is the decompressor's error for what follows the last of
	// several concatenated streams without being another one.
	garbage error
}

// gzipMembers decompresses concatenated gzip files and ends, as gzip does, at
// whatever follows that is not another one.
type gzipMembers struct {
	*gzip.Reader
	in *bufio.Reader
}

var gzipMagic = []byte{0x1f, 0x8b}

func newGzip(r *bufio.Reader) (io.Reader, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return &gzipMembers{z, r}, nil
}

func (g *gzipMembers) Read(p []byte) (int, error) {
	n, err := g.Reader.Read(p)
	if err != io.EOF {
		return n, err
	}
	if head, _ := g.in.Peek(2); !bytes.Equal(head, gzipMagic) {
		return n, io.EOF
	}
	if err := g.Reset(g.in); err != nil {
		return n, err
	}
	g.Multistream(false)
	return n, nil
}

func newBzip2(r *bufio.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil }

func newXz(r *bufio.Reader) (io.Reader, error) { return xz.NewReader(r, maxWindow) }

func newZstd(r *bufio.Reader) (io.Reader, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

func newLz4(r *bufio.Reader) (io.Reader, error) { return lz4.NewReader(r), nil }

// formats: every one but the plain tar, which has its magic only at byte 257
// and in old archives none.
var formats = []format{
	{gzipMagic, newGzip, nil},
	{[]byte("BZh"), newBzip2, bzip2.StructuralError("bad magic value in continuation file")},
	{[]byte{0xfd, '7', 'z', 'X', 'Z', 0}, newXz, xz.ErrFormat},
	{[]byte{0x28, 0xb5, 0x2f, 0xfd}, newZstd, zstd.ErrMagicMismatch},
	// A frame to be skipped, which pzstd writes first.
	{[]byte{skippable, 0x2a, 0x4d, 0x18}, newZstd, zstd.ErrMagicMismatch},
	{[]byte{0x04, 0x22, 0x4d, 0x18}, newLz4, lz4.ErrInvalidFrame},
	{[]byte{0x02, 0x21, 0x4c, 0x18}, newLz4, lz4.ErrInvalidFrame},
}

// archive is a stream of tar blocks, whatever it was compressed with.
type archive struct {
	raw        source
	compressed bool
	garbage    error
	ahead      *ahead
	streamErr  error // how reading the decompressed stream ended
}

// openArchive looks at the first bytes of r and returns its content
// decompressed. The caller closes it.
func openArchive(r io.Reader) (*archive, error) {
	a := &archive{raw: source{r: r}}
	buffered := bufio.NewReaderSize(&a.raw, 256<<10)
	head, err := buffered.Peek(8)
	if len(head) == 0 {
		if err == io.EOF {
			err = errNotArchive
		}
		return nil, err
	}
	var stream io.Reader = buffered
	for _, f := range formats {
		first := append([]byte(nil), head...)
		if f.magic[0] == skippable {
			first[0] &^= 0x0f
		}
		if !bytes.HasPrefix(first, f.magic) {
			continue
		}
		a.compressed, a.garbage = true, f.garbage
		if stream, err = f.open(buffered); err != nil {
			a.streamErr = err
			return nil, a.cause(err, true)
		}
		break
	}
	a.ahead = readAhead(stream)
	return a, nil
}

func (a *archive) Read(p []byte) (int, error) {
	n, err := a.ahead.Read(p)
	if err != nil {
		a.streamErr = err
	}
	return n, err
}

// drain reads what follows the end of the archive: whoever writes into the
// pipe we read from expects it, and a compressed stream ends in a checksum.
// Something else behind the archive is no error, as with tar.
func (a *archive) drain() error {
	_, err := io.Copy(io.Discard, a)
	// The goroutine that read has ended with that. Decompressors may stop
	// early, but only at the very end is a transfer known to be complete.
	io.Copy(io.Discard, &a.raw)
	if err == nil || a.garbage != nil && errors.Is(err, a.garbage) {
		return a.raw.failure()
	}
	return a.cause(err, false)
}

func (a *archive) close() { a.ahead.close() }

var errNotArchive = errors.New("not an archive")

// cause words an error that reading the archive gave. first says that no
// member of it has been seen yet.
func (a *archive) cause(err error, first bool) error {
	if failure := a.raw.failure(); failure != nil {
		return failure // a disk or network error, whatever the layers above made of it
	}
	broken := a.streamErr != nil && a.streamErr != io.EOF
	truncated := errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, xz.ErrBuf)
	switch {
	case truncated && (broken || !first):
		return errors.New("truncated archive: unexpected EOF")
	case broken:
		return fmt.Errorf("cannot be decompressed: %w", err)
	case first:
		return errNotArchive
	default:
		return fmt.Errorf("damaged archive: %w", err)
	}
}

// source is the archive as it comes from the disk or the network; it remembers
// how reading failed. It is read in one goroutine and asked in another.
type source struct {
	r   io.Reader
	mu  sync.Mutex
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
	}
	return n, err
}

func (s *source) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
