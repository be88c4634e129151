package importers

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// transfer shows, in one line of a terminal, how much has come. Another
// goroutine than the importer's reads it, which may still do so when the
// import has failed.
type transfer struct {
	r    io.Reader
	size int64 // -1 if it is not known
	name string

	mu       sync.Mutex
	terminal *os.File // nil if nothing is shown
	got      int64
	last     time.Time // when the line was written
	width    int       // of the line, 0 if there is none
}

// newTransfer returns a transfer of size bytes (-1 if that is not known) which
// is shown as name if progress is a terminal.
func newTransfer(r io.Reader, size int64, name string, progress io.Writer) *transfer {
	t := &transfer{r: r, size: size, name: name}
	if f, ok := progress.(*os.File); ok && columns(f) > 0 {
		t.terminal = f
	}
	return t
}

// columns returns the width of a terminal, 0 if f is none.
func columns(f *os.File) int {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	if size.Col == 0 {
		return 80 // it does not know
	}
	return int(size.Col)
}

func (t *transfer) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.got += int64(n)
	if t.terminal != nil && time.Since(t.last) > 100*time.Millisecond {
		t.last = time.Now()
		t.show(t.line())
	}
	return n, err
}

// line says how far the transfer is.
func (t *transfer) line() string {
	line := fmt.Sprintf("%.1f MiB", float64(t.got)/(1<<20))
	if t.size > 0 {
		line = fmt.Sprintf("%3d%% of %.1f MiB", 100*min(t.got, t.size)/t.size, float64(t.size)/(1<<20))
	}
	line += "  " + t.name
	// The last column stays free: some terminals go to the next line there.
	if most := columns(t.terminal) - 1; len(line) > most {
		line = line[:max(0, most)]
	}
	return line
}

// show writes line in place of the one before. t.mu is held.
func (t *transfer) show(line string) {
	fmt.Fprintf(t.terminal, "\r%s%s", line, strings.Repeat(" ", max(0, t.width-len(line))))
	t.width = len(line)
}

// hide takes the line away for good.
func (t *transfer) hide() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.width > 0 {
		t.show("")
		fmt.Fprint(t.terminal, "\r")
	}
	t.terminal, t.width = nil, 0
}

// noticeWriter takes the transfer's line away before something is written.
type noticeWriter struct {
	t *transfer
	w io.Writer
}

func (n noticeWriter) Write(p []byte) (int, error) {
	n.t.hide()
	return n.w.Write(p)
}
