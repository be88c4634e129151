package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Names of contenders that the report compares.
const (
	kernel  = "kernel"
	fuse1   = "fuse-overlayfs 1"
	fuse2   = "fuse-overlayfs 2"
	unionfs = "unionfs-fuse"
	ours    = "plash"
	union   = "plash union"
)

// A contender mounts a set of layers.
type contender struct {
	name  string
	path  string // its program, none for the kernel
	mount func(c contender, l layers, m mounted) error
}

// contenders returns those that this machine has, the kernel first.
func contenders(c config) []contender {
	list := []contender{{name: kernel, mount: mountKernel(c.User != "")}}
	add := func(name, path string, mount func(contender, layers, mounted) error) {
		if path == "" || c.Without != "" && regexp.MustCompile(c.Without).MatchString(name) {
			return
		}
		if found, err := exec.LookPath(path); err == nil {
			list = append(list, contender{name, found, mount})
		} else {
			fmt.Fprintln(os.Stderr, "left out:", err)
		}
	}
	add(fuse1, "fuse-overlayfs", mountOverlay)
	add(fuse2, c.Fuse2, mountOverlay)
	if !c.Quick {
		add(unionfs, "unionfs", mountUnionfs)
	}
	add(ours, c.Plash, mountImage)
	add(union, c.Plash, mountUnion)
	return list
}

func overlayOptions(l layers, m mounted) string {
	return "lowerdir=" + strings.Join(l.names, ":") + ",upperdir=" + m.place + "/upper,workdir=" + m.place + "/work"
}

func mountKernel(user bool) func(contender, layers, mounted) error {
	return func(_ contender, l layers, m mounted) error {
		options := overlayOptions(l, m)
		if user {
			options += ",userxattr"
		}
		return unix.Mount("overlay", m.target, "overlay", 0, options)
	}
}

func mountOverlay(c contender, l layers, m mounted) error {
	return run("", c.path, "-o", overlayOptions(l, m), m.target)
}

func mountUnion(c contender, l layers, m mounted) error {
	return run("", c.path, "union", "-o", overlayOptions(l, m), m.target)
}

func mountImage(c contender, l layers, m mounted) error {
	return run("", c.path, "mount", l.image, m.target, m.place+"/changes")
}

func mountUnionfs(c contender, l layers, m mounted) error {
	branches := m.place + "/upper=RW:" + strings.Join(l.names, "=RO:") + "=RO"
	return run("", c.path, "-o", "cow", branches, m.target)
}

// version returns what c's program says of its version, for the kernel the
// kernel's.
func (c contender) version() string {
	if c.path == "" {
		var uts unix.Utsname
		unix.Uname(&uts)
		return unix.ByteSliceToString(uts.Release[:])
	}
	plash, flag := c.name == ours || c.name == union, "--version"
	if plash {
		flag = "version"
	}
	out, _ := exec.Command(c.path, flag).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if plash || strings.Contains(line, "fs: version") || strings.Contains(line, "unionfs-fuse version") {
			fields := strings.Fields(line)
			return fields[len(fields)-1]
		}
	}
	return "?"
}

// A mounted is a mount of one contender, with its changes in memory.
type mounted struct {
	place  string // directory on a tmpfs of its own: upper, work, mnt
	target string
}

// mountFresh mounts the layers for c at the place dir.
func (c contender) mountFresh(dir string, l layers) (m mounted, err error) {
	m = mounted{place: dir, target: filepath.Join(dir, "mnt")}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
		return m, fmt.Errorf("tmpfs: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Unmount(dir, unix.MNT_DETACH)
		}
	}()
	for _, name := range []string{"upper", "work", "mnt"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return m, err
		}
	}
	// Five hundred absolute paths would be too long for a mount's options.
	if err := os.Chdir(l.dir); err != nil {
		return m, err
	}
	defer os.Chdir("/")
	return m, c.mount(c, l, m)
}

// end unmounts, and waits for the server's end.
func (m mounted) end() error {
	err := unix.Unmount(m.target, 0)
	if err != nil {
		err = errors.Join(fmt.Errorf("umount: %w", err), unix.Unmount(m.target, unix.MNT_DETACH))
	}
	for deadline := time.Now().Add(10 * time.Second); len(servers()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			for _, pid := range servers() {
				unix.Kill(pid, unix.SIGKILL)
			}
			err = errors.Join(err, errors.New("the server had to be killed"))
			break
		}
	}
	return errors.Join(err, unix.Unmount(m.place, unix.MNT_DETACH))
}

// run runs a program in dir; its output is of interest only if it fails.
func run(dir string, argv ...string) error {
	_, err := runTimed(dir, argv...)
	return err
}

// runTimed also returns the CPU time that it took.
func runTimed(dir string, argv ...string) (time.Duration, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	// A file: a pipe that a server in the background keeps is waited for.
	f, err := os.CreateTemp("", "bench-output-")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	os.Remove(f.Name())
	cmd.Stderr = f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	done := time.AfterFunc(5*time.Minute, func() { unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	defer done.Stop()
	if err := cmd.Run(); err != nil {
		text := make([]byte, 400)
		n, _ := f.ReadAt(text, 0)
		return 0, fmt.Errorf("%s: %w %s", filepath.Base(argv[0]), err, blanks.ReplaceAllString(string(text[:n]), " "))
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

var blanks = regexp.MustCompile(`\s+`)
