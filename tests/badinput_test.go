package tests

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// archiveOf returns a tar archive of these entries.
func archiveOf(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		content := ""
		if e.Typeflag == tar.TypeReg {
			content = "content\n"
			e.Size = int64(len(content))
		}
		if e.Mode == 0 {
			e.Mode = 0o755
		}
		if err := w.WriteHeader(&e); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestBadArchives: what is no archive, or half of one, is one clear line, and
// leaves nothing.
func TestBadArchives(t *testing.T) {
	each(t, everyone, 2*time.Minute, func(t *testing.T) {
		good := archiveOf(t,
			tar.Header{Name: "dir/", Typeflag: tar.TypeDir},
			tar.Header{Name: "dir/file", Typeflag: tar.TypeReg},
			tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "dir/file"})
		packed := gzipped(t, good)
		damaged := bytes.Clone(packed)
		damaged[len(damaged)/2] ^= 0xff
		dir := writable(t)
		for name, data := range map[string][]byte{
			"empty":                nil,
			"text":                 []byte("this is no archive\n"),
			"zeros":                make([]byte, 100),
			"truncated":            good[:700],
			"truncated in a file":  good[:1030],
			"gzip of text":         gzipped(t, []byte("this is no archive\n")),
			"truncated gzip":       packed[:len(packed)/2],
			"damaged gzip":         damaged,
			"gzip magic only":      {0x1f, 0x8b},
			"xz magic only":        {0xfd, '7', 'z', 'X', 'Z', 0},
			"zstd magic only":      {0x28, 0xb5, 0x2f, 0xfd},
			"bzip2 magic only":     []byte("BZh9"),
			"lz4 magic only":       {0x04, 0x22, 0x4d, 0x18},
			"checksum not correct": append([]byte("x"), good[1:]...),
		} {
			t.Run(name, func(t *testing.T) {
				file := filepath.Join(dir, "archive")
				if err := os.WriteFile(file, data, 0o644); err != nil {
					t.Fatal(err)
				}
				plash(t, "pull:tarfile", file).fails(`: `)
				runWith(t, bytes.NewReader(data), "plash", "pull:tarfile").fails(`: `)
				runWith(t, bytes.NewReader(data), "plash", "pull:tarfile", "-").fails(`: `)
				plash(t, "pull:url", "file://"+file).fails(`: `)
				nothingLeft(t)
			})
		}
	})
}

// nothingLeft demands a data directory without an image and without litter,
// in which a good archive still gets the first id.
func nothingLeft(t *testing.T) {
	t.Helper()
	if list := images(t); len(list) > 1 || len(list) == 1 && list[0] != "0" {
		t.Errorf("images: %q", list)
	}
	data := os.Getenv("PLASH_DATA")
	if list := names(t, filepath.Join(data, "tmp")); len(list) != 0 {
		t.Errorf("left in tmp/: %q", list)
	}
	if list := names(t, filepath.Join(data, "layer/0")); len(list) > 1 {
		t.Errorf("left in layer/0: %q", list)
	}
}

// TestHostileArchives: no entry may reach outside the target, whichever way.
func TestHostileArchives(t *testing.T) {
	each(t, everyone, 2*time.Minute, func(t *testing.T) {
		outside := writable(t)
		secret := filepath.Join(outside, "secret")
		if err := os.WriteFile(secret, []byte("secret\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		up := strings.Repeat("../", 40)
		for name, entries := range map[string][]tar.Header{
			"dots":                 {{Name: up + secret[1:], Typeflag: tar.TypeReg}},
			"dots inside":          {{Name: "a/", Typeflag: tar.TypeDir}, {Name: "a/../../" + up + secret[1:], Typeflag: tar.TypeReg}},
			"absolute":             {{Name: secret, Typeflag: tar.TypeReg}},
			"absolute new":         {{Name: outside + "/new", Typeflag: tar.TypeReg}},
			"through a symlink":    {{Name: "a", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "a/secret", Typeflag: tar.TypeReg}},
			"through two symlinks": {{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "b"}, {Name: "b", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "a/new", Typeflag: tar.TypeReg}},
			"through dots symlink": {{Name: "a", Typeflag: tar.TypeSymlink, Linkname: up + outside[1:]}, {Name: "a/new", Typeflag: tar.TypeReg}},
			"onto a symlink":       {{Name: "a", Typeflag: tar.TypeSymlink, Linkname: secret}, {Name: "a", Typeflag: tar.TypeReg}},
			"directory as symlink": {{Name: "a", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "a", Typeflag: tar.TypeDir, Mode: 0o700}, {Name: "a/new", Typeflag: tar.TypeReg}},
			"hard link":            {{Name: "a", Typeflag: tar.TypeLink, Linkname: secret}, {Name: "a", Typeflag: tar.TypeReg}},
			"hard link with dots":  {{Name: "a", Typeflag: tar.TypeLink, Linkname: up + secret[1:]}},
			"hard link by symlink": {{Name: "d", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "a", Typeflag: tar.TypeLink, Linkname: "d/secret"}},
			"whiteout":             {{Name: "d", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "d/.wh.secret", Typeflag: tar.TypeReg}},
			"whiteout of dots":     {{Name: "d/", Typeflag: tar.TypeDir}, {Name: "d/.wh...", Typeflag: tar.TypeReg}},
		} {
			t.Run(name, func(t *testing.T) {
				// Refused or made harmless, either will do, but never half.
				r := runWith(t, bytes.NewReader(archiveOf(t, entries...)), "plash", "pull:tarfile")
				if r.state.Success() {
					id := r.id()
					plash(t, "run", id, "cat", "/a/secret").state.Success() // must not hang
					into := filepath.Join(outside, "..", filepath.Base(outside)+"-copy")
					plash(t, "push:dir", id, into)
					plash(t, "sudo", "rm", "-rf", into).ok()
					plash(t, "rm", id).ok()
				} else {
					r.fails(`: `)
				}
				if got := readFile(t, secret); got != "secret\n" {
					t.Errorf("the file outside has become %q", got)
				}
				if list := names(t, outside); len(list) != 1 {
					t.Errorf("outside are now %q", list)
				}
				info, err := os.Stat(outside)
				if err != nil || info.Mode().Perm() != 0o700 {
					t.Errorf("the directory outside has become %v", info.Mode())
				}
				nothingLeft(t)
			})
		}
	})
}

// TestBadWords: what does not exist, or may not be used.
func TestBadWords(t *testing.T) {
	each(t, everyone, 2*time.Minute, func(t *testing.T) {
		dir := writable(t)
		here := func(name string) string { return filepath.Join(dir, name) }
		os.WriteFile(here("file"), []byte("x"), 0o644)
		os.WriteFile(here("closed"), []byte("x"), 0)
		os.MkdirAll(here("full/x"), 0o755)
		plash(t, "pull:tarfile", here("absent")).fails(`/absent: No such file or directory$`)
		plash(t, "pull:tarfile", dir).fails(`: `)
		plash(t, "pull:url", "http://127.0.0.1:1/x").fails(`: .*[Cc]onnection refused`)
		plash(t, "pull:url", "nonsense").fails(`: `)
		plash(t, "pull:url", "ftp://127.0.0.1/x").fails(`: `)
		plash(t, "pull:url", "file://"+here("absent")).fails(`/absent: No such file or directory$`)
		if os.Getuid() != 0 {
			plash(t, "pull:tarfile", here("closed")).fails(`/closed: Permission denied$|not an archive`)
		}
		nothingLeft(t)
		id := needTiny(t)
		for _, words := range [][]string{
			{"run", "ID"}, {"mount", "ID", dir}, {"mounted", "ID"}, {"rm", "ID"}, {"parent", "ID"}, {"build", "ID", "true"},
			{"push:dir", "ID", here("new")}, {"push:tarfile", "ID", here("new")}, {"nodepath", "ID"}, {"id", "ID"}, {"run:persist", "ID", here("new")},
			{"stack", "ID", here("full")},
		} {
			for word, why := range map[string]string{"999": `^no image: 999$`, "abc": `must be a positive number`, "-1": `must be a positive number`, "1x": `must be a positive number`, "": `must be a positive number`} {
				words := append([]string{}, words...)
				words[1] = word
				plash(t, words...).fails(why)
			}
		}
		plash(t, "mount", id, here("absent")).fails(`/absent: No such file or directory$`)
		plash(t, "mount", id, here("file")).fails(`/file: Not a directory$`)
		plash(t, "umount", dir).fails(`: `)
		plash(t, "umount", here("absent")).fails(`/absent: No such file or directory$`)
		plash(t, "run:persist", id, here("file"), "true").fails(`/file: Not a directory$`)
		plash(t, "run:persist", id, here("absent/x"), "true").fails(`/absent/x: No such file or directory$`)
		plash(t, "chroot", here("absent")).fails(`/absent: No such file or directory$`)
		plash(t, "stack", id, here("absent")).fails(`/absent: No such file or directory$`)
		plash(t, "stack", id, here("file")).fails(`/file: Not a directory$`)
		plash(t, "push:dir", id, here("full")).fails(`/full: `)
		plash(t, "push:dir", id, here("file")).fails(`/file: `)
		plash(t, "push:tarfile", id, dir).fails(`: Is a directory$`)
		plash(t, "push:tarfile", id, here("absent/x")).fails(`: No such file or directory$`)
		if list := images(t); len(list) != 2 {
			t.Errorf("images: %q", list)
		}
		if list := names(t, dir); len(list) != 3 {
			t.Errorf("files: %q", list)
		}
		noTemps(t)
	})
}
