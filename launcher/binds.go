package launcher

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
)

// A bind is a Bind whose source was looked at.
type bind struct {
	Bind
	IsDir bool
	Asked bool   // by the caller: it must work
	real  string // the source without symbolic links
}

// binds returns what is bound into the container, in order. Of the default
// ones, those the host lacks or the caller may not enter are left out.
func (c *Config) binds() ([]bind, error) {
	var list []bind
	add := func(src, dst string) {
		b, err := lookAt(Bind{Src: src, Dst: dst})
		if err != nil {
			c.say("not bound: %v", err)
			return
		}
		list = append(list, b)
	}
	addSame := func(path string) {
		// A path inside of what is bound already is there.
		if filepath.IsAbs(path) && seenInside(path, list) != path {
			add(filepath.Clean(path), filepath.Clean(path))
		}
	}
	if !c.NoDefaultBinds {
		add("/", "/mnt")
		for _, dir := range []string{"/tmp", "/home", "/root", "/dev", "/proc", "/sys"} {
			if dir != "/tmp" || !c.Build {
				add(dir, dir)
			}
		}
		add("/etc/resolv.conf", "/etc/resolv.conf")
		add("/etc/hosts", "/etc/hosts")
		// A system user's "home" such as /bin is not his, and would do harm.
		home := os.Getenv("HOME")
		if st := (unix.Stat_t{}); home != "" && unix.Stat(home, &st) == nil && int(st.Uid) == os.Geteuid() && filepath.Clean(home) != "/" {
			addSame(home)
		}
		for _, name := range []string{"XDG_RUNTIME_DIR", "XAUTHORITY", "WAYLAND_DISPLAY"} {
			if path := os.Getenv(name); path != "" {
				addSame(path)
			}
		}
	}
	for _, asked := range c.Binds {
		b, err := lookAt(asked)
		if err != nil {
			return nil, err
		}
		b.Asked = true
		list = append(list, b)
	}
	return list, nil
}

// lookAt completes b's paths, and fails if its source is not there or not
// accessible.
func lookAt(b Bind) (bind, error) {
	src, err := filepath.Abs(b.Src)
	if err != nil {
		return bind{}, errs.Path(b.Src, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(src, &st); err != nil {
		return bind{}, errs.Path(src, err)
	}
	mode := uint32(unix.R_OK)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		mode = unix.X_OK
	case unix.S_IFSOCK:
		mode = unix.W_OK
	}
	if err := unix.Access(src, mode); err != nil {
		return bind{}, errs.Path(src, err)
	}
	real, err := filepath.EvalSymlinks(src)
	if err != nil {
		return bind{}, errs.Path(src, err)
	}
	if b.Dst == "" {
		b.Dst = src
	}
	if b.Src, b.Dst = src, filepath.Join("/", b.Dst); b.Dst == "/" {
		return bind{}, errs.Path(src, errors.New("nothing can be bound over the image's root"))
	}
	return bind{Bind: b, IsDir: st.Mode&unix.S_IFMT == unix.S_IFDIR, real: real}, nil
}

// seenInside returns the path under which the container sees the host's path;
// path itself if it does not.
func seenInside(path string, binds []bind) string {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		real = path
	}
	if real, err = filepath.Abs(real); err != nil {
		return path
	}
	best, inside := -1, path
	for _, b := range binds {
		rest, below := strings.CutPrefix(real, strings.TrimSuffix(b.real, "/"))
		// What the longest source shows is not hidden by another bind.
		if below && (rest == "" || rest[0] == '/') && len(b.real) > best {
			best, inside = len(b.real), filepath.Join(b.Dst, rest)
		}
	}
	return inside
}

// A look says what is at rel, a path without symbolic links in its directories,
// below some root: its mode, and where a symbolic link leads. "" is the root.
type look func(rel string) (mode uint32, link string, err error)

// resolve follows path inside a root as look shows it, where ".." and absolute
// links cannot leave that root. It returns the path without symbolic links and
// the mode of what is there, 0 if nothing is. The last component is followed
// only if last says so.
func resolve(path string, last bool, at look) (string, uint32, error) {
	rest := strings.Split(path, "/")
	done, mode := "", uint32(unix.S_IFDIR)
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			done = strings.TrimPrefix(filepath.Dir("/"+done), "/")
			continue
		}
		next := strings.TrimPrefix(done+"/"+name, "/")
		m, link, err := at(next)
		if err == unix.ENOENT {
			// What does not exist has no links to follow.
			whole := filepath.Join("/", next, strings.Join(rest, "/"))
			return whole[1:], 0, nil
		}
		if err != nil {
			return "", 0, err
		}
		more := slices.ContainsFunc(rest, func(s string) bool { return s != "" && s != "." })
		if m&unix.S_IFMT == unix.S_IFLNK && (more || last) {
			if links++; links > 40 {
				return "", 0, unix.ELOOP
			}
			if filepath.IsAbs(link) {
				done = ""
			}
			rest = append(strings.Split(link, "/"), rest...)
			continue
		}
		if more && m&unix.S_IFMT != unix.S_IFDIR {
			return "", 0, unix.ENOTDIR
		}
		done, mode = next, m
	}
	return done, mode, nil
}

// target finds where b is to be mounted below the root that look shows. The
// target of a directory is followed to the end. A link where a file is to be
// is covered itself, so that the file is there whatever it leads to.
func (b *bind) target(at look) (rel string, mode uint32, err error) {
	rel, mode, err = resolve(b.Dst, b.IsDir, at)
	isDir := mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case err != nil || mode == 0:
	case isDir && !b.IsDir:
		err = unix.EISDIR
	case !isDir && b.IsDir:
		err = unix.ENOTDIR
	}
	return rel, mode, err
}

// rootBinds mounts everything in binds on the tree below the directory root.
// note is told what was left out.
func rootBinds(root string, binds []bind, note func(string)) error {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return errs.Path(root, err)
	}
	defer unix.Close(fd)
	at := func(rel string) (uint32, string, error) {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, rel, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return 0, "", err
		}
		link := ""
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			buf := make([]byte, unix.PathMax)
			n, err := unix.Readlinkat(fd, rel, buf)
			if err != nil {
				return 0, "", err
			}
			link = string(buf[:n])
		}
		return st.Mode, link, nil
	}
	for _, b := range binds {
		rel, mode, err := b.target(at)
		if err == nil && mode == 0 {
			err = makeTarget(fd, rel, b.IsDir)
		}
		if err == nil {
			err = bindAt(fd, rel, b)
		}
		if err == unix.ENOTDIR || err == unix.EISDIR {
			// The image has something else there, and it is the image's.
			if !b.Asked {
				note("not bound: " + errs.Path(b.Dst, err).Error())
				continue
			}
		}
		if err != nil {
			return errs.Path(b.Dst, err)
		}
	}
	return nil
}

// bindAt mounts b on rel below the directory root. The mount receives what the
// host unmounts, and passes nothing back: its source was made so before.
func bindAt(root int, rel string, b bind) error {
	fd, err := unix.Openat(root, rel, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// Through /proc the kernel mounts on what was opened, also if it is a link.
	if err := unix.Mount(b.Src, procFD(fd), "", unix.MS_BIND|unix.MS_REC, ""); err != nil || !b.ReadOnly {
		return err
	}
	on, err := unix.Openat(root, rel, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(on)
	return makeReadOnly(on)
}

// makeReadOnly lets nothing be written through the mount at fd and those below.
func makeReadOnly(fd int) error {
	err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if err != unix.ENOSYS {
		return err
	}
	// Before Linux 5.12, the mount itself only. Flags that it has already must
	// be repeated: in a user namespace they cannot be taken away.
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return err
	}
	const kept = unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC | unix.ST_NOATIME | unix.ST_NODIRATIME
	flags := uintptr(st.Flags)&kept | unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY
	if st.Flags&unix.ST_RELATIME != 0 {
		flags |= unix.MS_RELATIME
	}
	return unix.Mount("", procFD(fd), "", flags, "")
}

// makeTarget makes the directory or empty file rel, and the directories above
// it, below the directory root.
func makeTarget(root int, rel string, isDir bool) error {
	for i, r := range rel {
		if r == '/' {
			if err := mkdirat(root, rel[:i]); err != nil {
				return err
			}
		}
	}
	if isDir {
		return mkdirat(root, rel)
	}
	fd, err := unix.Openat(root, rel, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func mkdirat(root int, rel string) error {
	err := unix.Mkdirat(root, rel, 0o755)
	if err == unix.EEXIST {
		return nil
	}
	return err
}

// procFD returns a path to fd, for the calling thread, as one may have
// descriptors of its own.
func procFD(fd int) string { return "/proc/thread-self/fd/" + strconv.Itoa(fd) }
