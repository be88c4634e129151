// Command bench measures plash beside kernel overlayfs and fuse-overlayfs: each
// mounts the same three layers, writable, and the same programs run in it. The
// rounds of all are interleaved, so that what else the machine does hits all
// alike. It prints the medians, and their ratios to the kernel's. Only root can
// run it: kernel overlayfs and cold caches need that.
//
//	usage: bench [-rounds N] [-dir DIR] PLASH
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	rounds := flag.Int("rounds", 5, "rounds, of which the medians are taken")
	dir := flag.String("dir", os.TempDir(), "directory for layers and changes: its file system is measured too")
	flag.Parse()
	if flag.NArg() != 1 || *rounds < 1 {
		fmt.Fprintln(os.Stderr, "usage: bench [-rounds N] [-dir DIR] PLASH")
		os.Exit(1)
	}
	if err := bench(flag.Arg(0), *dir, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A contender mounts the layers at target, with its changes in the existing
// directory changes; what it returns ends the mount.
type contender struct {
	name  string
	mount func(layers []string, changes, target string) error
	end   func(target string) error
}

// A task is what is measured, a program that runs at the mount's root. Cold:
// all caches are dropped before.
type task struct {
	name string
	cold bool
	argv []string
}

func bench(plash, parent string, rounds int) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root: kernel overlayfs and cold caches")
	}
	plash, err := filepath.Abs(plash)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(parent, "plash-bench")
	if err != nil {
		return err
	}
	// All changes stay until the end: some file systems are slow for a while
	// after much was deleted.
	defer os.RemoveAll(dir)
	os.Setenv("PLASH_DATA", filepath.Join(dir, "data"))
	id, layers, err := makeLayers(plash, dir)
	if err != nil {
		return err
	}
	archive := filepath.Join(dir, "archive.tar")
	if err := makeArchive(archive); err != nil {
		return err
	}
	tasks := []task{
		{"find, cold", true, []string{"find", ".", "-ls"}},
		{"find, warm", false, []string{"find", ".", "-ls"}},
		{"read all, cold", true, []string{"grep", "-r", "no such text", "."}},
		{"read all, warm", false, []string{"grep", "-r", "no such text", "."}},
		{"untar", false, []string{"tar", "-xf", archive, "--one-top-level=new"}},
		{"rm -rf, of the upper layer", false, []string{"rm", "-rf", "new"}},
		{"rm -rf, of lower layers", false, []string{"rm", "-rf", "d0", "d1", "d2", "d3"}},
	}
	contenders := competitors(plash, id)

	times := map[string]map[string][]time.Duration{} // contender, task
	for _, c := range contenders {
		times[c.name] = map[string][]time.Duration{}
	}
	for round := range rounds {
		for i := range contenders {
			c := contenders[(round+i)%len(contenders)]
			place := filepath.Join(dir, fmt.Sprintf("%s-%d", c.name, round))
			if err := once(c, layers, place, tasks, times[c.name]); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, rounds)
	}
	return report(os.Stdout, contenders, tasks, times)
}

// competitors returns those that this machine has, the kernel first.
func competitors(plash, id string) []contender {
	options := func(layers []string, changes string) string {
		return fmt.Sprintf("lowerdir=%s,upperdir=%s/data,workdir=%s/work", strings.Join(layers, ":"), changes, changes)
	}
	umount := func(target string) error { return run("", "umount", target) }
	list := []contender{{"kernel", func(layers []string, changes, target string) error {
		return unix.Mount("overlay", target, "overlay", 0, options(layers, changes))
	}, umount}}
	if path, err := exec.LookPath("fuse-overlayfs"); err == nil {
		list = append(list, contender{"fuse-overlayfs", func(layers []string, changes, target string) error {
			return run("", path, "-o", options(layers, changes), target)
		}, umount})
	} else {
		fmt.Fprintln(os.Stderr, "no fuse-overlayfs on this machine: it is left out")
	}
	return append(list, contender{"plash", func(_ []string, changes, target string) error {
		return run("", plash, "mount", id, target, changes)
	}, umount})
}

// once mounts and runs each task, and adds what they took to times.
func once(c contender, layers []string, place string, tasks []task, times map[string][]time.Duration) (err error) {
	changes, target := filepath.Join(place, "changes"), filepath.Join(place, "mnt")
	for _, dir := range []string{target, changes + "/data", changes + "/work"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := c.mount(layers, changes, target); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.end(target)) }()
	for _, t := range tasks {
		unix.Sync()
		if t.cold {
			if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
				return err
			}
		}
		begin := time.Now()
		err := run(target, t.argv...)
		took := time.Since(begin)
		var exit *exec.ExitError
		if err != nil && !(t.argv[0] == "grep" && errors.As(err, &exit) && exit.ExitCode() == 1) {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		times[t.name] = append(times[t.name], took)
	}
	return nil
}

// run runs a program in dir; its output is of interest only if it fails.
func run(dir string, argv ...string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if err != nil && stderr.Len() > 0 {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return err
}

func report(w io.Writer, contenders []contender, tasks []task, times map[string]map[string][]time.Duration) error {
	median := func(list []time.Duration) time.Duration {
		slices.Sort(list)
		return list[len(list)/2]
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "ms (times the kernel's)\t")
	for _, c := range contenders {
		fmt.Fprintf(t, "%s\t\t", c.name)
	}
	fmt.Fprintln(t)
	for _, task := range tasks {
		fmt.Fprintf(t, "%s\t", task.name)
		kernel := median(times[contenders[0].name][task.name])
		for _, c := range contenders {
			m := median(times[c.name][task.name])
			fmt.Fprintf(t, "%.1f\t%.2f\t", float64(m)/1e6, float64(m)/float64(kernel))
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

// Sizes of the layers: dirs directories of files each in the lowest.
const dirs, files = 100, 120

// makeLayers makes three layers, stacked as an image: 12,000 files; changed
// ones and a few new directories on top; and removed ones on top of that. It
// returns the image's id and the layers' directories, topmost first.
func makeLayers(plash, dir string) (id string, layers []string, err error) {
	if err := run("", plash, "init"); err != nil {
		return "", nil, err
	}
	random := rand.New(rand.NewPCG(1, 2))
	write := func(layer string, d, f int) error {
		name := filepath.Join(layer, fmt.Sprintf("d%d", d%10), fmt.Sprintf("e%d", d), fmt.Sprintf("file%d", f))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		// As in a system: most are small, a few large.
		size := 200 + random.IntN(8<<10)
		if f%60 == 0 {
			size *= 50
		}
		return os.WriteFile(name, bytes.Repeat([]byte("0123456789abcde\n"), size/16), 0o644)
	}
	id = "0"
	for n := range 3 {
		layer := filepath.Join(dir, "layer")
		if err := os.Mkdir(layer, 0o755); err != nil {
			return "", nil, err
		}
		for d := range dirs {
			for f := range files {
				switch {
				case n == 0, n == 1 && (d+f)%10 == 0:
					err = write(layer, d, f)
				case n == 1 && d%10 == 0:
					err = write(layer, dirs+d, f)
				case n == 2 && f == 1:
					if err = write(layer, d, files); err == nil {
						err = unix.Mknod(filepath.Join(layer, fmt.Sprintf("d%d/e%d/file1", d%10, d)), unix.S_IFCHR, 0)
					}
				}
				if err != nil {
					return "", nil, err
				}
			}
		}
		out, err := exec.Command(plash, "stack", id, layer).Output()
		if err != nil {
			return "", nil, fmt.Errorf("plash stack: %w", err)
		}
		id = strings.TrimSpace(string(out))
		node, err := exec.Command(plash, "nodepath", id).Output()
		if err != nil {
			return "", nil, fmt.Errorf("plash nodepath: %w", err)
		}
		layers = append([]string{filepath.Join(strings.TrimSpace(string(node)), "_data/root")}, layers...)
	}
	return id, layers, nil
}

// makeArchive writes a tar of 6,000 small files in 200 directories.
func makeArchive(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	text := bytes.Repeat([]byte("0123456789abcde\n"), 300)
	for n := range 6000 {
		size := 100 + n*7919%4000
		header := &tar.Header{Name: fmt.Sprintf("dir%d/file%d", n%200, n), Mode: 0o644, Size: int64(size), ModTime: time.Unix(1e9, 0)}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		if _, err := w.Write(text[:size]); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), f.Close())
}
