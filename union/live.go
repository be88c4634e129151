package union

import (
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"plash/internal/errs"
)

// entered are the local disk file systems whose mounts below a live layer
// belong to its tree. All others (network, FUSE, autofs, pseudo file systems,
// tmpfs) are shown as empty directories and never asked for anything, since
// the answer may hang or mean nothing to a container.
var entered = map[string]bool{
	"bcachefs": true, "btrfs": true, "erofs": true, "exfat": true, "ext2": true, "ext3": true, "ext4": true,
	"f2fs": true, "iso9660": true, "jfs": true, "msdos": true, "nilfs2": true, "ntfs3": true, "overlay": true,
	"reiserfs": true, "squashfs": true, "vfat": true, "xfs": true, "zfs": true,
}

// never are directories that are not entered whatever they are: their content
// is state of the running system.
var never = []string{"/run", "/proc", "/sys", "/dev"}

// A mountTable knows the mount points below a live layer's root, from
// /proc/self/mountinfo; see proc_pid_mountinfo(5). It is read again when a name
// turns out to be a mount point that it does not know.
type mountTable struct {
	path string
	mu   sync.RWMutex // guards children maps of all its points
	top  *mountPoint
	read time.Time
}

// A mountPoint is a path below the root that is a mount point or leads to one.
type mountPoint struct {
	table    *mountTable
	path     string
	enter    bool
	ino      uint64
	children map[string]*mountPoint
}

func newMountTable(root string) (*mountTable, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, errs.Path(root, err)
	}
	t := &mountTable{path: root}
	t.top = &mountPoint{table: t, path: root, enter: true}
	if err := t.load(); err != nil {
		return nil, err
	}
	// Our own data directory would show the image inside itself.
	for _, p := range append([]string{dataDir()}, never...) {
		if p != "" {
			t.add(p, false)
		}
	}
	return t, nil
}

// dataDir is plash's data directory as the environment names it.
func dataDir() string {
	dir := os.Getenv("PLASH_DATA")
	if dir == "" {
		dir = filepath.Join(os.Getenv("HOME"), ".plashdata")
	}
	if abs, err := filepath.EvalSymlinks(dir); err == nil {
		dir = abs
	}
	if !filepath.IsAbs(dir) {
		return ""
	}
	return dir
}

func (t *mountTable) root() *mountPoint { return t.top }

func (t *mountTable) load() error {
	all, err := mountinfo.GetMounts(nil)
	if err != nil {
		return errs.Path("/proc/self/mountinfo", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.read = time.Now()
	for _, m := range all {
		t.addLocked(m.Mountpoint, entered[m.FSType])
	}
	return nil
}

func (t *mountTable) add(path string, enter bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addLocked(path, enter)
}

func (t *mountTable) addLocked(path string, enter bool) {
	rel, err := filepath.Rel(t.path, path)
	if err != nil || rel == "." || rel == ".." || strings.HasPrefix(rel, "../") {
		return
	}
	p := t.top
	for _, name := range strings.Split(rel, "/") {
		if p.children == nil {
			p.children = map[string]*mountPoint{}
		}
		c := p.children[name]
		if c == nil {
			c = &mountPoint{table: t, path: filepath.Join(p.path, name), enter: true}
			c.ino = pathIno(c.path)
			p.children[name] = c
		}
		p = c
	}
	for _, n := range never {
		if path == n {
			enter = false
		}
	}
	p.enter = enter
}

// refresh reads the mounts again, at most every tenth of a second.
func (t *mountTable) refresh() {
	t.mu.RLock()
	fresh := time.Since(t.read) < 100*time.Millisecond
	t.mu.RUnlock()
	if !fresh {
		t.load() // an error leaves the table as it was
	}
}

func (p *mountPoint) child(name string) *mountPoint {
	if p == nil {
		return nil
	}
	p.table.mu.RLock()
	defer p.table.mu.RUnlock()
	return p.children[name]
}

// pathIno makes up an inode number for a directory that exists nowhere, in a
// range that file systems do not use.
func pathIno(path string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(path))
	return h.Sum64() | 1<<62
}

// stat fills st with an empty directory of root's.
func (p *mountPoint) stat(st *unix.Stat_t) {
	*st = unix.Stat_t{Mode: unix.S_IFDIR | 0o755, Nlink: 2, Ino: p.ino, Blksize: 4096}
	switch p.path {
	case "/tmp", "/var/tmp", "/dev/shm":
		st.Mode |= 0o1777
	}
}

// lstatLive is lstat in a live layer's directory with descriptor fd.
func (d *layerDir) lstatLive(fd int, name string, st *unix.Stat_t) error {
	if m := d.mount.child(name); m != nil {
		if !m.enter {
			return m.statShown(fd, name, st)
		}
		return fstatat(fd, name, st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
	}
	obj, err := openBeneathMount(fd, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err == unix.EXDEV {
		// A mount that is newer than the table, or one on a name that we do
		// not watch: look again, else show nothing there.
		d.layer.mounts.refresh()
		if m := d.mount.child(name); m != nil && m.enter {
			return fstatat(fd, name, st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
		}
		return unix.ENOENT
	}
	if err != nil {
		return err
	}
	defer unix.Close(obj)
	return fstat(obj, st)
}

// statShown fills st for a mount point that is not entered. Its type is taken
// from its parent's listing, which comes from the file system below the mount:
// only directories are shown.
func (m *mountPoint) statShown(parent int, name string, st *unix.Stat_t) error {
	fd, err := openBeneathMount(parent, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	isDir := false
	err = readDirFD(fd, func(e rawDirent) bool {
		if e.name == name {
			isDir = e.typ == unix.S_IFDIR
		}
		return e.name != name
	})
	if err != nil || !isDir {
		return unix.ENOENT
	}
	m.stat(st)
	return nil
}

// openBeneathMount opens name in dir without crossing a mount point (EXDEV);
// before Linux 5.6 it cannot tell, and crosses.
func openBeneathMount(dir int, name string, flags int) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_NO_XDEV}
	for {
		fd, err := unix.Openat2(dir, name, &how)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err == unix.ENOSYS {
			return openat(dir, name, flags|unix.O_CLOEXEC, 0)
		}
		return fd, err
	}
}
