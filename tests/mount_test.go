package tests

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMount: an image that every program of the user sees, whoever owns its
// files, until one of three commands ends it.
func TestMount(t *testing.T) {
	each(t, everyone, 3*time.Minute, func(t *testing.T) {
		if _, err := exec.LookPath("fusermount3"); err != nil {
			t.Skip("no fusermount3 on this machine: tests/setup.sh installs it")
		}
		owner := 33
		if os.Getenv("USER") == string(single) {
			owner = 0 // there is no other one to map
		}
		base := runWith(t, bytes.NewReader(archiveOf(t,
			tar.Header{Name: "dir/", Typeflag: tar.TypeDir, Uid: owner, Gid: owner, Mode: 0o700},
			tar.Header{Name: "dir/file", Typeflag: tar.TypeReg, Uid: owner, Gid: owner, Mode: 0o600},
			tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "dir/file"},
		)), "plash", "pull:tarfile").id()
		dir := writable(t)
		point := filepath.Join(dir, "point with blank")
		os.Mkdir(point, 0o755)
		mounted := func() bool {
			var here, up unix.Stat_t
			return unix.Stat(point, &here) == nil && unix.Stat(dir, &up) == nil && here.Dev != up.Dev
		}
		for _, end := range [][]string{{"plash", "umount"}, {"umount"}, {"fusermount3", "-u"}} {
			t.Run(strings.Join(end, " "), func(t *testing.T) {
				r := plash(t, "mount", base, point)
				if r.ok() != "" || r.err != "" {
					r.fatal("silence")
				}
				if got := readFile(t, filepath.Join(point, "link")); got != "content\n" {
					t.Errorf("read %q", got)
				}
				run(t, "cat", filepath.Join(point, "dir/file")).prints("content")
				if err := os.WriteFile(filepath.Join(point, "new"), nil, 0o644); !errors.Is(err, unix.EROFS) {
					t.Errorf("writing to a read-only mount: %v", err)
				}
				run(t, append(end, point)...).ok()
				if mounted() {
					t.Error("still mounted")
				}
			})
		}

		// Writable, and what was written is there again.
		changes := filepath.Join(dir, "changes")
		plash(t, "mount", base, point, changes).ok()
		for path, text := range map[string]string{"new": "new\n", "dir/file": "changed\n"} {
			if err := os.WriteFile(filepath.Join(point, path), []byte(text), 0o644); err != nil {
				t.Error(err)
			}
		}
		if err := os.Remove(filepath.Join(point, "link")); err != nil {
			t.Error(err)
		}
		other := filepath.Join(dir, "other")
		os.Mkdir(other, 0o755)
		plash(t, "mount", base, other, changes).fails("changes directory in use")
		plash(t, "run:persist", base, changes, "true").fails("changes directory in use")
		plash(t, "umount", point).ok()
		eventually(t, "the server has let go of the changes", func() bool {
			return plash(t, "mount", base, point, changes).state.Success()
		})
		if got := readFile(t, filepath.Join(point, "dir/file")) + readFile(t, filepath.Join(point, "new")); got != "changed\nnew\n" {
			t.Errorf("read %q", got)
		}
		if list := names(t, point); len(list) != 2 {
			t.Errorf("names: %q", list)
		}
		plash(t, "umount", point).ok()
		// The changes are a layer.
		eventually(t, "the server has let go of the changes", func() bool {
			return plash(t, "stack", base, filepath.Join(changes, "data")).state.Success()
		})

		// A running mount holds its image.
		plash(t, "mount", base, point).ok()
		plash(t, "rm", base).fails("image in use")
		// Busy, it stays.
		busy, err := os.Open(filepath.Join(point, "dir/file"))
		if err != nil {
			t.Fatal(err)
		}
		plash(t, "umount", point).fails("busy")
		busy.Close()
		plash(t, "umount", point).ok()
	})
}
