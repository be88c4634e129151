package fusedev

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A writer answers a request as its first letter says: "w" writes what follows
// the arguments to the file, "l" leaves it where it is; the reply tells how long
// the request was and whether it came through a pipe.
type writer struct{ file *os.File }

func (w writer) MayTakeLong([]byte, bool) bool { return false }

func (w writer) Handle(in []byte, rest *Pipe, out []byte) int {
	n, piped := len(in), rest != nil
	if piped {
		n += rest.n
	}
	var err error
	if in[0] == 'w' && piped {
		err = rest.WriteTo(int(w.file.Fd()), 0)
	} else if in[0] == 'w' && len(in) > arguments {
		_, err = unix.Pwrite(int(w.file.Fd()), in[arguments:], 0)
	}
	return copy(out, fmt.Sprint(string(in[:1]), n, piped, err))
}

// TestLargeRequests: what large requests carry arrives, through a pipe once they
// are expected, into any file, and what is left of one is not taken for the next.
func TestLargeRequests(t *testing.T) {
	for _, flag := range []int{0, unix.O_APPEND} { // no splicing into these
		path := filepath.Join(t.TempDir(), "file")
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|flag, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_, kernel := serveFor(t, 1<<20-os.Getpagesize(), writer{f})
		if err := unix.SetsockoptInt(kernel, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20); err != nil {
			t.Fatal(err)
		}
		piped := false
		last := time.Now()
		for i := range 4 * soonLarge {
			for _, size := range []int{bulk, 100, bulk + 5000} {
				kind := string("wl"[i%2])
				data := bytes.Repeat([]byte{byte('a' + i%26)}, size)
				send(t, kernel, kind+strings.Repeat("-", arguments-1)+string(data))
				got := receive(t, kernel)
				slow := time.Since(last) > rest/2 // a reader that rests gives its pipe back
				last = time.Now()
				expected := fmt.Sprint(kind, arguments+size, piped && size >= bulk, nil)
				if got != expected && !(slow && got == fmt.Sprint(kind, arguments+size, false, nil)) {
					t.Fatalf("got %q, want %q", got, expected)
				}
				piped = true
				if kind == "l" {
					continue
				}
				if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
					t.Fatalf("%d bytes became %d, %v", size, len(got), err)
				}
				if err := f.Truncate(0); err != nil {
					t.Fatal(err)
				}
			}
		}
		for i := range soonLarge + 1 { // small ones again
			send(t, kernel, "l")
			want(t, kernel, fmt.Sprint("l", 1, false, nil))
			if i == soonLarge {
				send(t, kernel, "l"+strings.Repeat("-", bulk))
				want(t, kernel, fmt.Sprint("l", bulk+1, false, nil))
			}
		}
	}
}
