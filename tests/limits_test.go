package tests

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"plash/union"
)

// stream pulls an archive that write writes and returns the image's id.
func stream(t *testing.T, write func(w *tar.Writer) error) string {
	t.Helper()
	reader, writer := io.Pipe()
	go func() {
		w := tar.NewWriter(writer)
		err := write(w)
		if err == nil {
			err = w.Close()
		}
		writer.CloseWithError(err)
	}()
	defer reader.Close()
	return runWith(t, reader, "plash", "pull:tarfile").id()
}

// TestBigArchive: 2 GB in one file and a little more.
func TestBigArchive(t *testing.T) {
	each(t, []kind{root, ordinary}, 5*time.Minute, func(t *testing.T) {
		const size = 2<<30 + 5
		var disk unix.Statfs_t
		if err := unix.Statfs(os.TempDir(), &disk); err == nil && disk.Bavail*uint64(disk.Bsize) < 2*size {
			t.Skip("needs 4 GB of free disk")
		}
		id := stream(t, func(w *tar.Writer) error {
			if err := w.WriteHeader(&tar.Header{Name: "big", Typeflag: tar.TypeReg, Mode: 0o644, Size: size}); err != nil {
				return err
			}
			block := make([]byte, 1<<20)
			for i := range block {
				block[i] = byte(i * i >> 8)
			}
			for range 2 << 10 {
				if _, err := w.Write(block); err != nil {
					return err
				}
			}
			_, err := w.Write([]byte("last\n"))
			return err
		})
		root := filepath.Join(plash(t, "nodepath", id).ok(), "_data/root")
		if info, err := os.Stat(filepath.Join(root, "big")); err != nil || info.Size() != size {
			t.Fatalf("%v %v", info, err)
		}
		plash(t, "mounted", id, "tail", "-c", "5", "big").prints("last")
		plash(t, "rm", id).ok()
	})
}

// TestManyFiles: 100,000 files, each with an extended attribute, in and out.
func TestManyFiles(t *testing.T) {
	each(t, []kind{root, ordinary}, 8*time.Minute, func(t *testing.T) {
		const count, perDir = 100_000, 1000
		id := stream(t, func(w *tar.Writer) error {
			for i := range count {
				if i%perDir == 0 {
					if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%d/", i/perDir), Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
						return err
					}
				}
				name := fmt.Sprintf("d%d/f%d", i/perDir, i)
				if err := w.WriteHeader(&tar.Header{
					Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(name)), Format: tar.FormatPAX,
					PAXRecords: map[string]string{"SCHILY.xattr.user.number": strconv.Itoa(i)},
				}); err != nil {
					return err
				}
				if _, err := io.WriteString(w, name); err != nil {
					return err
				}
			}
			return nil
		})
		plash(t, "mounted", id, "sh", "-c", "find . -type f | wc -l").prints(strconv.Itoa(count))
		push := exec.Command("plash", "push:tarfile", id)
		out, err := push.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := push.Start(); err != nil {
			t.Fatal(err)
		}
		files := 0
		for r := tar.NewReader(out); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if h.Typeflag != tar.TypeReg {
				continue
			}
			content, err := io.ReadAll(r)
			number := h.PAXRecords["SCHILY.xattr.user.number"]
			if err != nil || !strings.HasSuffix(h.Name, "/f"+number) || "./"+string(content) != h.Name {
				t.Fatalf("%s: attribute %q, content %q, %v", h.Name, number, content, err)
			}
			files++
		}
		io.Copy(io.Discard, out)
		if err := push.Wait(); err != nil || files != count {
			t.Errorf("%d files, %v", files, err)
		}
		plash(t, "rm", id).ok()
	})
}

// TestLongPath: a path of 3,000 characters, in, seen from inside, and out.
func TestLongPath(t *testing.T) {
	each(t, everyone, 2*time.Minute, func(t *testing.T) {
		dir := strings.Repeat(strings.Repeat("d", 199)+"/", 15)
		id := stream(t, func(w *tar.Writer) error {
			for i := range 15 {
				if err := w.WriteHeader(&tar.Header{Name: dir[:(i+1)*200], Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
					return err
				}
			}
			if err := w.WriteHeader(&tar.Header{Name: dir + "file", Typeflag: tar.TypeReg, Mode: 0o644, Size: 5}); err != nil {
				return err
			}
			_, err := io.WriteString(w, "deep\n")
			return err
		})
		plash(t, "mounted", id, "cat", dir+"file").prints("deep")
		copied := filepath.Join(writable(t), "copy")
		plash(t, "push:dir", id, copied).ok()
		if got := readFile(t, filepath.Join(copied, dir, "file")); got != "deep\n" {
			t.Errorf("read %q", got)
		}
		archive := filepath.Join(writable(t), "tar")
		plash(t, "push:tarfile", id, archive).ok()
		run(t, "tar", "-xOf", archive, "./"+dir+"file").prints("deep")
		// Changed and removed from inside.
		tiny := needTiny(t)
		id2 := plash(t, "build", tiny, "p="+dir+`; mkdir -p "/$p" && echo new >"/${p}file"`).id()
		id3 := plash(t, "build", id2, "p="+dir+`; cat "/${p}file" && rm -r /ddd*`).id()
		plash(t, "run", id2, "cat", "/"+dir+"file").prints("new")
		plash(t, "run", id3, "sh", "-c", "ls -d /ddd*").code(1)
		plash(t, "rm", tiny).ok()
	})
}

// TestManyLayers merges 1,000 layers in one union.
func TestManyLayers(t *testing.T) {
	each(t, everyone, 2*time.Minute, func(t *testing.T) {
		const count = 1000
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Max < 2*count {
			t.Skipf("needs %d open files, the limit is %d", 2*count, limit.Max)
		}
		dir := writable(t)
		var lowers []union.Layer
		for i := range count {
			layer := filepath.Join(dir, strconv.Itoa(i))
			if err := os.MkdirAll(filepath.Join(layer, "common"), 0o755); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"same", "common/same", "common/" + strconv.Itoa(i)} {
				if err := os.WriteFile(filepath.Join(layer, name), []byte(strconv.Itoa(i)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			lowers = append([]union.Layer{{Path: layer}}, lowers...)
		}
		u, err := union.New(union.Config{Lowers: lowers})
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		common, err := u.Lookup(u.Root(), "common")
		if err != nil {
			t.Fatal(err)
		}
		entries, err := u.ReadDir(common)
		if err != nil || len(entries) != count+1 {
			t.Errorf("%d entries, %v", len(entries), err)
		}
		for name, want := range map[string]string{"same": strconv.Itoa(count - 1), "0": "0", "500": "500"} {
			node, err := u.Lookup(common, name)
			if err != nil {
				t.Fatal(err)
			}
			fd, err := u.Open(node)
			if err != nil {
				t.Fatal(err)
			}
			file := os.NewFile(uintptr(fd), name)
			if got, err := io.ReadAll(file); err != nil || string(got) != want {
				t.Errorf("%s: %q, %v", name, got, err)
			}
			file.Close()
		}
	})
}

// TestDeepImage: images 500 deep work, and the one whose path the system could
// not take is refused in one line.
func TestDeepImage(t *testing.T) {
	each(t, []kind{root, ordinary}, 5*time.Minute, func(t *testing.T) {
		id := needTiny(t)
		// In one user namespace, for speed.
		script := `id=$1; cd "$TMPDIR"
			while :; do
				mkdir d && echo $id >d/last && echo $id >d/$id
				id=$(plash stack $id d) || break
				[ $id -lt 500 ] || [ -e 500 ] || echo $id >500
			done
			rm -r d; echo $id`
		r := plash(t, "sudo", "sh", "-c", script, "sh", id)
		r.ok()
		if strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, "plash error: ") || !strings.Contains(r.err, "too many layers") {
			r.fatal("one line that says that there are too many layers")
		}
		deep := strings.TrimSpace(readFile(t, filepath.Join(os.TempDir(), "500")))
		if deep != "500" {
			t.Errorf("reached %q, want 500", deep)
		}
		plash(t, "run", deep, "sh", "-c", "cat /last /1 /250 && echo x >/last && cat /last").prints("499\n1\n250\nx")
		if list := images(t); len(list) < 502 {
			t.Errorf("%d images", len(list))
		}
		last := strconv.Itoa(len(images(t)) - 1)
		plash(t, "run", last, "cat", "/1").prints("1")
		plash(t, "rm", id).ok()
		if list := images(t); len(list) != 1 {
			t.Errorf("%d images left", len(list))
		}
	})
}

// TestRoundTrip: what goes in by one archive comes out in the next.
func TestRoundTrip(t *testing.T) {
	each(t, everyone, 2*time.Minute, func(t *testing.T) {
		owner := 33
		if os.Getenv("USER") == string(single) {
			owner = 0 // there is no other one to map
		}
		moment := time.Unix(1_234_567_890, 123_456_789)
		attributes := map[string]string{"SCHILY.xattr.user.name": "value\x00binary"}
		entries := []tar.Header{
			{Name: "./", Typeflag: tar.TypeDir, Mode: 0o750},
			{Name: "./dir/", Typeflag: tar.TypeDir, Mode: 0o1777, Uid: owner, Gid: owner, PAXRecords: attributes},
			{Name: "./dir/fifo", Typeflag: tar.TypeFifo, Mode: 0o640},
			{Name: "./dir/file", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: owner, Gid: owner, PAXRecords: attributes},
			{Name: "./dir/link", Typeflag: tar.TypeSymlink, Linkname: "../no such/place", Mode: 0o777, Uid: owner},
			{Name: "./dir/näme\nwith \\everything", Typeflag: tar.TypeReg, Mode: 0o400},
			{Name: "./hard", Typeflag: tar.TypeLink, Linkname: "./dir/file"},
		}
		for i := range entries {
			entries[i].ModTime, entries[i].Format = moment, tar.FormatPAX
		}
		archive := archiveOf(t, entries...)
		dir := writable(t)
		plain := filepath.Join(dir, "a.tar")
		if err := os.WriteFile(plain, archive, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, packer := range []string{"", "gzip", "bzip2", "xz", "zstd", "lz4"} {
			file := plain
			if packer != "" {
				if _, err := exec.LookPath(packer); err != nil {
					t.Errorf("no %s on this machine: tests/setup.sh installs it", packer)
					continue
				}
				file += "." + packer
				run(t, "sh", "-c", packer+" -c <"+plain+" >"+file).ok()
			}
			id := plash(t, "pull:tarfile", file).id()
			out := plash(t, "push:tarfile", id, "-")
			out.ok()
			got := map[string]*tar.Header{}
			for r := tar.NewReader(strings.NewReader(out.out)); ; {
				h, err := r.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				got[h.Name] = h
			}
			if len(got) != len(entries) {
				t.Errorf("%s: %d entries, want %d", packer, len(got), len(entries))
			}
			for _, want := range entries {
				h := got[want.Name]
				if h == nil {
					t.Errorf("%s: no %q", packer, want.Name)
					continue
				}
				if want.Typeflag == tar.TypeLink || h.Typeflag == tar.TypeLink {
					continue // of two names, either may come first
				}
				if h.Typeflag != want.Typeflag || h.Linkname != want.Linkname || h.Uid != want.Uid || h.Gid != want.Gid ||
					!h.ModTime.Equal(want.ModTime) || h.PAXRecords["SCHILY.xattr.user.name"] != want.PAXRecords["SCHILY.xattr.user.name"] ||
					h.Typeflag != tar.TypeSymlink && h.Mode != want.Mode {
					t.Errorf("%s: got %+v, want %+v", packer, h, want)
				}
			}
			// The names of one file are one file.
			node := plash(t, "nodepath", id).ok()
			plash(t, "sudo", "sh", "-c", `cd "$1/_data/root" && test hard -ef dir/file`, "sh", node).ok()
		}
	})
}
