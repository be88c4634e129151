package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// layers are a set of layers that are mounted together. They lie in a directory of
// the set's name, or in plash's data directory and are links there, as 0 (the
// lowest), 1, 2 and so on; and they are an image of plash.
type layers struct {
	dir   string
	names []string // in dir, topmost first
	image string   // id
}

// sets are the functions that make the layers of a set.
func (a *agent) sets() map[string]func(dir string) error {
	return map[string]func(dir string) error{
		"tree":       makeTree,
		"big":        makeBig,
		"git":        makeGit,
		"distro":     a.makeDistro,
		"go":         a.makeGo,
		"layers-1":   makeMany(1),
		"layers-10":  makeMany(10),
		"layers-100": makeMany(100),
		"layers-500": makeMany(500),
		"wide":       makeWide,
	}
}

// layers returns the layers of a set, and makes them if they are not there.
func (a *agent) layers(set string) (layers, error) {
	l := layers{dir: filepath.Join(a.own(), set)}
	err := once(l.dir, func(dir string) error {
		if err := a.sets()[set](dir); err != nil {
			return err
		}
		return a.stack(dir)
	})
	if err != nil {
		return l, err
	}
	image, err := os.ReadFile(l.dir + "/image")
	if err != nil {
		return l, err
	}
	l.image = string(image)
	for n := 0; ; n++ {
		name := strconv.Itoa(n)
		if _, err := os.Lstat(filepath.Join(l.dir, name)); err != nil {
			return l, nil
		}
		l.names = slices.Insert(l.names, 0, name)
	}
}

// stack makes an image of the layers in dir, which become links, and writes its
// id into a file there.
func (a *agent) stack(dir string) error {
	image := "0"
	for n := 0; ; n++ {
		layer := filepath.Join(dir, strconv.Itoa(n))
		if _, err := os.Lstat(layer); err != nil {
			return os.WriteFile(dir+"/image", []byte(image), 0o644)
		}
		out, err := exec.Command(a.Plash, "stack", image, layer).Output()
		if err != nil {
			return fmt.Errorf("plash stack: %w", err)
		}
		image = strings.TrimSpace(string(out))
		node, err := exec.Command(a.Plash, "nodepath", image).Output()
		if err != nil {
			return fmt.Errorf("plash nodepath: %w", err)
		}
		if err := os.Symlink(filepath.Join(strings.TrimSpace(string(node)), "_data/root"), layer); err != nil {
			return err
		}
	}
}

// furnish makes what all rows may use, and tells them in the environment where
// it is.
func (a *agent) furnish() error {
	temp, archive := filepath.Join(a.own(), "tmp"), filepath.Join(a.own(), "files.tar")
	for _, dir := range []string{filepath.Join(a.own(), "empty"), temp} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for name, value := range map[string]string{"TMPDIR": temp, "ARCHIVE": archive, "BENCH": os.Args[0], "PLASH_DATA": filepath.Join(a.own(), "data")} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	return once(archive, makeArchive)
}

// once makes a file or directory, unless it is there, first under another name.
func once(name string, make func(name string) error) error {
	if _, err := os.Lstat(name); err == nil {
		return nil
	}
	fresh := name + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "making %s\n", name)
	if err := make(fresh); err != nil {
		return err
	}
	unix.Sync() // what is not on the disk cannot be dropped from the caches
	return os.Rename(fresh, name)
}

// text is what files are filled with.
var text = bytes.Repeat([]byte("0123456789abcde\n"), 1<<16)

// write writes a file of that size in a directory that it makes.
func write(name string, size int) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, text[:size], 0o644)
}

// Sizes of the tree: directories, of files each, in the lowest layer.
const (
	treeDirs     = 100
	treeDirFiles = 120
	treeFiles    = 12120 // that are seen in the end
)

// makeTree makes three layers: 12,000 files in 100 directories; every tenth
// changed, and a few new directories; and in each directory one removed and one new.
func makeTree(dir string) error {
	random := rand.New(rand.NewPCG(1, 2))
	size := func(f int) int {
		n := 200 + random.IntN(8<<10)
		if f%60 == 0 { // as in a system, most are small, a few large
			n *= 50
		}
		return n
	}
	name := func(layer, d, f int) string {
		return fmt.Sprintf("%s/%d/d%d/e%d/file%d", dir, layer, d%10, d, f)
	}
	for d := range treeDirs {
		for f := range treeDirFiles {
			err := write(name(0, d, f), size(f))
			if (d+f)%10 == 0 {
				err = errors.Join(err, write(name(1, d, f), size(f)))
			} else if d%10 == 0 && f < 12 {
				err = errors.Join(err, write(name(1, treeDirs+d, f), size(f)))
			}
			if err != nil {
				return err
			}
		}
		if err := write(name(2, d, treeDirFiles), size(1)); err != nil {
			return err
		}
		if err := unix.Mknod(name(2, d, 1), unix.S_IFCHR, 0); err != nil {
			return fmt.Errorf("whiteout: %w", err)
		}
	}
	return nil
}

// bigSize is the size of the file in the big set.
const bigSize = 256 << 20

// makeBig makes a layer of one large file of random bytes, and one above it.
func makeBig(dir string) error {
	if err := errors.Join(write(dir+"/0/small", 100), write(dir+"/1/other", 100)); err != nil {
		return err
	}
	f, err := os.Create(dir + "/0/big")
	if err != nil {
		return err
	}
	defer f.Close()
	random := rand.NewChaCha8([32]byte{1})
	block := make([]byte, 1<<20)
	for range bigSize / len(block) {
		random.Read(block)
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	return f.Sync()
}

const gitFiles = 5000

// makeGit makes a layer with a git repository.
func makeGit(dir string) error {
	repo := dir + "/0/repo"
	for n := range gitFiles {
		// No two alike, or git would store one.
		name := fmt.Sprintf("%s/dir%d/sub%d/file%d.c", repo, n%40, n%5, n)
		if err := write(name, 300+n*7919%6000); err != nil {
			return err
		}
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(f, n)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return run(repo, "sh", "-ec", "git init -q; git add .; git -c user.name=b -c user.email=b@localhost commit -qm all; git gc -q")
}

const archiveFiles = 10000

// makeArchive writes a tar of small files in 200 directories.
func makeArchive(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for n := range archiveFiles {
		dir, size := fmt.Sprintf("dir%d", n%200), 100+n*7919%4000
		if n < 200 {
			err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: time.Unix(1e9, 0)})
		}
		header := &tar.Header{Name: fmt.Sprintf("%s/file%d", dir, n), Mode: 0o644, Size: int64(size), ModTime: time.Unix(1e9, 0)}
		err = errors.Join(err, w.WriteHeader(header))
		if err != nil {
			return err
		}
		if _, err := w.Write(text[:size]); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), f.Close())
}
