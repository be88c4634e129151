package importers

import (
	"io"
	"sync"
)

const (
	aheadBuffers = 8
	aheadSize    = 128 << 10
)

// ahead reads and decompresses in a goroutine of its own while files are
// written, a bounded number of buffers ahead.
type ahead struct {
	full chan piece
	free chan []byte
	stop chan struct{}
	once sync.Once
	rest []byte // of the piece being read
	buf  []byte // that piece's buffer
	err  error
}

type piece struct {
	data []byte
	err  error
}

// readAhead starts reading r. If r is an io.Closer it is closed in the end.
func readAhead(r io.Reader) *ahead {
	a := &ahead{
		full: make(chan piece, aheadBuffers),
		free: make(chan []byte, aheadBuffers),
		stop: make(chan struct{}),
	}
	for range aheadBuffers {
		a.free <- make([]byte, aheadSize)
	}
	go func() {
		if c, ok := r.(io.Closer); ok {
			defer c.Close()
		}
		for {
			var buf []byte
			select {
			case buf = <-a.free:
			case <-a.stop:
				return
			}
			n, err := 0, error(nil)
			for n < len(buf) && err == nil {
				var m int
				m, err = r.Read(buf[n:])
				n += m
			}
			select {
			case a.full <- piece{buf[:n], err}:
			case <-a.stop:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return a
}

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.err != nil {
			return 0, a.err
		}
		if a.buf != nil {
			a.free <- a.buf
			a.buf = nil
		}
		next := <-a.full
		a.rest, a.err = next.data, next.err
		a.buf = next.data[:cap(next.data)]
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// close ends the reading. It does not wait for a read that blocks: a terminal
// or a pipe may never answer it.
func (a *ahead) close() { a.once.Do(func() { close(a.stop) }) }
