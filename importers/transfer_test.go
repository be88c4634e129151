package importers

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

// TestTransfer: on a terminal one line says how far a transfer is, no longer
// than the terminal is wide, and is gone at the end and before a notice.
func TestTransfer(t *testing.T) {
	for _, c := range []struct {
		size int64
		want string
	}{{4 << 20, " 25% of 4.0 MiB  "}, {-1, "1.0 MiB  "}} {
		ours, terminal, err := pty.Open()
		if err != nil {
			t.Skipf("no terminal can be made: %v", err)
		}
		defer ours.Close()
		pty.Setsize(terminal, &pty.Winsize{Cols: 26, Rows: 5})
		const name = "an archive with a long name"
		tr := newTransfer(strings.NewReader(strings.Repeat("x", 1<<20)), c.size, name, terminal)
		tr.last = time.Now().Add(time.Minute)
		buf := make([]byte, 1<<20)
		tr.Read(buf[:1]) // too soon after the last line
		tr.last = time.Time{}
		io.ReadFull(tr, buf[:1<<20-1])
		noticeWriter{tr, terminal}.Write([]byte("notice\n"))
		tr.last = time.Time{}
		tr.Read(buf) // nothing more is shown
		terminal.Close()
		got, _ := io.ReadAll(ours)
		if want := "\r" + (c.want + name)[:25] + "\r" + strings.Repeat(" ", 25) + "\rnotice\r\n"; string(got) != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestTransferElsewhere: nothing is shown in a file.
func TestTransferElsewhere(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tr := newTransfer(strings.NewReader("text"), 4, "name", f)
	io.Copy(io.Discard, tr)
	tr.hide()
	if info, _ := f.Stat(); info.Size() != 0 {
		t.Errorf("%d bytes written", info.Size())
	}
}
