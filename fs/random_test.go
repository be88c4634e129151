package fs_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	seed  = flag.Uint64("seed", 1, "of the random operations; 0: another one each time")
	steps = flag.Int("steps", 1500, "number of random operations")
)

// TestRandomLikeTheKernel does random operations on kernel overlayfs and on
// ours, and compares each outcome, and now and then the whole tree: as it is,
// after a remount, and as the kernel sees our upper.
//
// What it leaves out, because overlayfs differs from POSIX there and we do not:
// renaming directories of lower layers (EXDEV), lower hard links (which
// overlayfs breaks at copy-up), and files that were opened for reading before
// their copy-up (which go on showing the lower file).
func TestRandomLikeTheKernel(t *testing.T) {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("go test ./fs -run RandomLike -seed %d -steps %d", s, *steps)
	w := newWalkers(t, s)
	for i := range *steps {
		w.step(i)
		if t.Failed() {
			return
		}
		if i%250 == 249 {
			w.compare(i)
		}
	}
	w.compare(*steps)
}

// walkers are a kernel mount and one of ours that do the same.
type walkers struct {
	t            *testing.T
	r            *rand.Rand
	kernel, ours *stack
	k, o         []*os.File // open files, by pairs
	history      []string
}

func newWalkers(t *testing.T, seed uint64) *walkers {
	w := &walkers{t: t, r: rand.New(rand.NewPCG(seed, 1))}
	build := func() *stack {
		r := rand.New(rand.NewPCG(seed, 2))
		s := newStack(t, 3)
		for i, lower := range s.lowers {
			randomTree(t, r, lower, 3, i+1 < len(s.lowers))
			setTimes(t, lower)
		}
		return s
	}
	w.kernel, w.ours = build(), build()
	w.mountKernel()
	w.ours.mount()
	t.Cleanup(w.closeAll)
	return w
}

func (w *walkers) mountKernel() {
	w.kernel.kernelMount(w.kernel.upper, filepath.Join(w.kernel.base, "work"), w.kernel.mnt)
}

func (w *walkers) closeAll() {
	for i := range w.k {
		w.k[i].Close()
		w.o[i].Close()
	}
	w.k, w.o = nil, nil
}

var pool = strings.Split("a b c d e f", " ")

// randomTree fills a lower directory. Whiteouts are only put where the kernel
// hides them: it lists them in directories that do not merge.
func randomTree(t *testing.T, r *rand.Rand, dir string, depth int, whiteouts bool) {
	for _, name := range pool {
		path := filepath.Join(dir, name)
		var err error
		switch n := r.IntN(12); {
		case n < 3 && depth > 0:
			err = os.Mkdir(path, 0o755)
			if err == nil && r.IntN(4) == 0 {
				err = unix.Setxattr(path, "user.overlay.opaque", []byte("y"), 0)
			}
			randomTree(t, r, path, depth-1, false)
		case n < 6:
			err = os.WriteFile(path, []byte(strings.Repeat(path[len(path)-1:], r.IntN(9000))), 0o644)
		case n == 6:
			err = os.Symlink(pool[r.IntN(len(pool))], path)
		case n == 7:
			err = unix.Mkfifo(path, 0o600)
		case n == 8 && whiteouts:
			err = unix.Mknod(path, unix.S_IFCHR, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (w *walkers) path() string {
	parts := make([]string, 1+w.r.IntN(3))
	for i := range parts {
		parts[i] = pool[w.r.IntN(len(pool))]
	}
	return filepath.Join(parts...)
}

// step does one operation on both sides and compares what comes of it.
func (w *walkers) step(i int) {
	name, op := w.operation()
	k := op(w.kernel.mnt, w.k)
	if k == unix.EXDEV.Error() {
		return
	}
	o := op(w.ours.mnt, w.o)
	w.history = append(w.history, name+": "+k)
	if k != o {
		w.t.Errorf("step %d: %s\nkernel %s\nours   %s\nafter\n%s", i, name, k, o, strings.Join(w.history[max(0, len(w.history)-25):], "\n"))
	}
}

// result words an outcome.
func result(err error, more ...any) string {
	if err != nil {
		if e, ok := err.(*os.PathError); ok {
			err = e.Err
		}
		if e, ok := err.(*os.LinkError); ok {
			err = e.Err
		}
		return err.Error()
	}
	return "ok " + fmt.Sprint(more...)
}

type operation func(mnt string, open []*os.File) string

func (w *walkers) operation() (string, operation) {
	a, b, n := w.path(), w.path(), w.r.IntN(10000)
	at := func(f func(path string) string) operation {
		return func(mnt string, _ []*os.File) string { return f(filepath.Join(mnt, a)) }
	}
	both := func(f func(a, b string) error) operation {
		return func(mnt string, _ []*os.File) string { return result(f(filepath.Join(mnt, a), filepath.Join(mnt, b))) }
	}
	switch w.r.IntN(22) {
	case 0, 1:
		return fmt.Sprint("write ", a, " ", n), at(func(p string) string {
			return writeAt(p, os.O_RDWR|os.O_CREATE, int64(n), strings.Repeat("w", n%300))
		})
	case 2:
		return "replace " + a, at(func(p string) string { return writeAt(p, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0, "replaced") })
	case 3:
		return "create " + a, at(func(p string) string { return writeAt(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0, "new") })
	case 4, 5:
		return "unlink " + a, at(func(p string) string { return result(unix.Unlink(p)) })
	case 6:
		return "mkdir " + a, at(func(p string) string { return result(unix.Mkdir(p, 0o755)) })
	case 7:
		return "rmdir " + a, at(func(p string) string { return result(unix.Rmdir(p)) })
	case 8:
		return "rm -r " + a, at(func(p string) string {
			if dir, err := os.Stat(filepath.Dir(p)); err != nil || !dir.IsDir() {
				return result(err) // RemoveAll would wait for a FIFO
			}
			return result(os.RemoveAll(p))
		})
	case 9, 10, 11:
		return "rename " + a + " " + b, both(unix.Rename)
	case 12:
		flags := []uint{unix.RENAME_EXCHANGE, unix.RENAME_NOREPLACE}[n%2]
		return fmt.Sprint("rename2 ", a, " ", b, " ", flags), both(func(a, b string) error {
			return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, flags)
		})
	case 13:
		return "link " + a + " " + b, both(func(a, b string) error { return unix.Linkat(unix.AT_FDCWD, a, unix.AT_FDCWD, b, 0) })
	case 14:
		return "symlink " + a, at(func(p string) string { return result(unix.Symlink("a/b", p)) })
	case 15:
		return fmt.Sprintf("chmod %s %o", a, n%0o1000), at(func(p string) string { return result(unix.Chmod(p, uint32(n%0o1000|0o600))) })
	case 16:
		return "truncate " + a, at(func(p string) string { return result(unix.Truncate(p, int64(n))) })
	case 17:
		return "xattr " + a, at(func(p string) string {
			if n%3 == 0 {
				return result(unix.Lremovexattr(p, "user.x"))
			}
			return result(unix.Lsetxattr(p, "user.x", []byte(fmt.Sprint(n)), 0))
		})
	case 18:
		return "list " + a, at(func(p string) string {
			f, err := os.OpenFile(p, unix.O_DIRECTORY|unix.O_RDONLY, 0) // a FIFO must not be waited for
			if err != nil {
				return result(err)
			}
			defer f.Close()
			ents, err := f.ReadDir(-1)
			slices.SortFunc(ents, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
			var names []string
			for _, e := range ents {
				names = append(names, e.Name()+e.Type().String())
			}
			return result(err, names)
		})
	case 19:
		return "stat " + a, at(func(p string) string {
			var st unix.Stat_t
			err := unix.Lstat(p, &st)
			if st.Mode&unix.S_IFMT != unix.S_IFDIR {
				return result(err, describe(&st), " links ", st.Nlink)
			}
			return result(err, describe(&st))
		})
	case 20:
		return "open " + a, w.hold(a)
	}
	return w.use(n)
}

func writeAt(path string, flags int, off int64, data string) string {
	// A FIFO must not be waited for.
	f, err := os.OpenFile(path, flags|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return result(err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return result(err)
	}
	_, err = f.WriteAt([]byte(data), off)
	return result(err)
}

// hold opens a file on both sides and keeps it open.
func (w *walkers) hold(name string) operation {
	return func(mnt string, _ []*os.File) string {
		path := filepath.Join(mnt, name)
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
			return "no file"
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return result(err)
		}
		if mnt == w.kernel.mnt {
			w.k = append(w.k, f)
		} else {
			w.o = append(w.o, f)
		}
		return "ok"
	}
}

// use does something with an open file.
func (w *walkers) use(n int) (string, operation) {
	if len(w.k) == 0 {
		return "nothing", func(string, []*os.File) string { return "" }
	}
	i := n % len(w.k)
	return fmt.Sprint("use ", i), func(_ string, open []*os.File) string {
		f := open[i]
		_, werr := f.WriteAt([]byte("held"), int64(n%5000))
		buf := make([]byte, 20000)
		k, _ := f.ReadAt(buf, 0)
		var st unix.Stat_t
		err := unix.Fstat(int(f.Fd()), &st)
		return result(werr) + result(err, describe(&st), " links ", st.Nlink) + string(buf[:k])
	}
}

// compare compares the trees in every view.
func (w *walkers) compare(i int) {
	if w.t.Failed() {
		return
	}
	check := func(what string, want, got []string) {
		diff(w.t, fmt.Sprintf("after %d steps %s", i+1, what), want, got)
		if w.t.Failed() {
			w.t.FailNow()
		}
	}
	want := dump(w.t, w.kernel.mnt)
	check("the tree", want, dump(w.t, w.ours.mnt))
	w.closeAll()
	w.ours.unmount()
	w.ours.kernelMount(w.ours.upper, filepath.Join(w.ours.base, "work"), w.ours.mnt)
	check("the kernel's view of our upper", want, dump(w.t, w.ours.mnt))
	if err := unix.Unmount(w.ours.mnt, 0); err != nil {
		w.t.Fatal(err)
	}
	w.ours.mount()
	check("the tree after a remount", want, dump(w.t, w.ours.mnt))
}
