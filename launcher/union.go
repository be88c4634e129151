package launcher

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"

	"plash/fs"
	"plash/internal/errs"
	"plash/union"
)

// A UnionMount is a union of directories that are no images, and how it is
// mounted and served.
type UnionMount struct {
	Config     union.Config
	Serve      fs.Options
	Source     string   // what mount(8) shows as such; empty: plash
	Flags      uintptr  // of mount(2)
	Security   []string // mount options of the kernel's security modules
	AllowOther bool     // without privileges: let other users in, if fuse.conf permits it
	// Foreground: Mount returns when the mount is gone; a signal that ends
	// programs takes it away.
	Foreground bool
}

// Mount mounts the union at dir, for every program that sees dir. The server
// goes to the background, with this process's identity, and ends with the
// mount. Relative paths are resolved here.
func (m UnionMount) Mount(dir string, verbose func(format string, args ...any)) error {
	at, err := mountpoint(dir)
	if err != nil {
		return err
	}
	paths := []*string{&m.Config.Upper, &m.Config.Work}
	for i := range m.Config.Lowers {
		paths = append(paths, &m.Config.Lowers[i].Path)
	}
	for _, p := range paths {
		if *p == "" {
			continue
		}
		if *p, err = filepath.Abs(*p); err != nil {
			return errs.Path(*p, err)
		}
	}
	if m.Config.Upper != "" && (within(m.Config.Upper, m.Config.Work) || within(m.Config.Work, m.Config.Upper)) {
		return fmt.Errorf("%s: upperdir and workdir must not lie in each other", m.Config.Work)
	}
	for _, l := range m.Config.Lowers {
		if m.Config.Upper != "" && sameDir(l.Path, m.Config.Upper) {
			return fmt.Errorf("%s: upperdir must not be a lowerdir, too", m.Config.Upper)
		}
	}
	c := &Config{View: Host, Mountpoint: at, Verbose: verbose}
	j, err := c.job(identity{})
	if err != nil {
		return err
	}
	j.Union = &m
	var signals chan os.Signal
	if m.Foreground {
		// Before it is mounted: who sees that it is may end this process at once, and the
		// mount must end with it.
		signals = make(chan os.Signal, 1)
		signal.Notify(signals, unix.SIGHUP, unix.SIGINT, unix.SIGTERM)
	}
	pid, err := j.mount(identity{}, c, signals)
	if err != nil || !m.Foreground {
		return err
	}
	return waitForServer(pid)
}

// within reports whether dir, an absolute path, is the directory top or lies in
// it, as far as that can be found out.
func within(dir, top string) bool {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	for {
		if sameDir(dir, top) {
			return true
		}
		if dir == "/" {
			return false
		}
		dir = filepath.Dir(dir)
	}
}

func sameDir(a, b string) bool {
	x, errA := os.Stat(a)
	y, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(x, y)
}

// waitForServer waits until the server has ended.
func waitForServer(pid int) error {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("file system server: %s", errs.Text(err))
		}
		break
	}
	if !status.Exited() || status.ExitStatus() != 0 {
		return errServerDied
	}
	return nil
}

// helperOptions returns the options for fusermount3, which knows these flags
// and sets nosuid and nodev by itself.
func (m *UnionMount) helperOptions() string {
	options := ""
	for _, o := range []struct {
		flag uintptr
		name string
	}{{unix.MS_NOEXEC, "noexec"}, {unix.MS_SYNCHRONOUS, "sync"}, {unix.MS_NOATIME, "noatime"}, {unix.MS_DIRSYNC, "dirsync"}} {
		if m.Flags&o.flag != 0 {
			options += "," + o.name
		}
	}
	if m.AllowOther {
		options += ",allow_other"
	}
	for _, s := range m.Security {
		options += "," + s
	}
	return options
}
