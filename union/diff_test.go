package union

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDiff: additions, changes and deletions of a layer that the union itself
// wrote, with whiteouts of both kinds and opaque directories.
func TestDiff(t *testing.T) {
	for _, files := range []bool{false, true} {
		t.Run(fmt.Sprintf("files=%v", files), func(t *testing.T) {
			base, lower := t.TempDir(), t.TempDir()
			write(t, base, "dir/low", "dir/gone", "dir/sub/deep", "file", "both", "same", "tree/a/b", "tofile/x", "todir", "opaque/old", "opaque/same", "mode/x")
			write(t, lower, "dir/mid", "both")
			u, upper := open(t, lay(t, lower), lay(t, base))
			u.white.files = files
			do := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			put := func(path string) {
				t.Helper()
				dir := u.Root()
				if filepath.Dir(path) != "." {
					dir = walk(t, u, filepath.Dir(path))
				}
				_, _, err := u.Create(dir, filepath.Base(path), Creation{Mode: 0o644})
				do(err)
			}
			mkdir := func(name string) {
				t.Helper()
				_, _, err := u.Mkdir(u.Root(), name, Creation{Mode: 0o755})
				do(err)
			}
			change := func(path string, a SetAttr) {
				t.Helper()
				do(u.Setattr(walk(t, u, path), a))
			}
			put("dir/new")
			do(u.Unlink(walk(t, u, "dir"), "gone"))
			do(u.Write(walk(t, u, "dir/sub/deep"), []byte("x"), 0, false))
			do(u.Write(walk(t, u, "both"), []byte("x"), 0, false))
			do(u.Unlink(walk(t, u, "tree/a"), "b"))
			do(u.Rmdir(walk(t, u, "tree"), "a"))
			do(u.Rmdir(u.Root(), "tree"))
			do(u.Unlink(walk(t, u, "tofile"), "x"))
			do(u.Rmdir(u.Root(), "tofile"))
			put("tofile")
			do(u.Unlink(u.Root(), "todir"))
			mkdir("todir")
			put("todir/in")
			do(u.Unlink(walk(t, u, "opaque"), "old"))
			do(u.Unlink(walk(t, u, "opaque"), "same"))
			do(u.Rmdir(u.Root(), "opaque"))
			mkdir("opaque")
			put("opaque/same")
			put("opaque/new")
			mode := uint32(0o700)
			change("mode", SetAttr{Mode: &mode})
			mkdir("added")
			put("added/line\nbreak")
			u.Close()

			diff := func(layers ...Layer) string {
				t.Helper()
				var lines []string
				do(Diff(layers, func(c Change, path string) error {
					lines = append(lines, fmt.Sprintf("%c %q", c, path))
					return nil
				}))
				return strings.Join(lines, "\n")
			}
			want := strings.TrimSpace(`
A "/added"
A "/added/line\nbreak"
C "/both"
D "/dir/gone"
A "/dir/new"
C "/dir/sub/deep"
C "/mode"
A "/opaque/new"
D "/opaque/old"
C "/opaque/same"
C "/todir"
A "/todir/in"
C "/tofile"
D "/tree"`)
			if got := diff(lay(t, upper), lay(t, lower), lay(t, base)); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if got := diff(lay(t, lower), lay(t, base)); got != "C \"/both\"\nA \"/dir/mid\"" {
				t.Errorf("the layer between: %s", got)
			}
			if got := diff(lay(t, lower)); got != "A \"/both\"\nA \"/dir\"\nA \"/dir/mid\"" {
				t.Errorf("one layer alone: %s", got)
			}
			if err := Diff([]Layer{{Path: lower}}, func(Change, string) error { return unix.EPIPE }); err != unix.EPIPE {
				t.Errorf("the caller's error: %v", err)
			}
			if err := Diff([]Layer{{Path: lower + "/none"}}, nil); err == nil || !os.IsNotExist(err.(interface{ Unwrap() error }).Unwrap()) {
				t.Errorf("a layer that is not there: %v", err)
			}
		})
	}
}
