// Package importers turns root filesystems from elsewhere into images: tar
// archives from files and from the network, those of LXC's image server found by
// their names, and the running system itself.
package importers

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"sort"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/internal/fileattr"
	"plash/internal/tree"
)

// UnpackOptions say what Unpack does besides unpacking.
type UnpackOptions struct {
	// Notices gets a line for each kind of attribute or file that this place
	// does not allow, in the end; nil: they are not said.
	Notices io.Writer
}

// Unpack unpacks a tar archive, of any common compression, into dir, an empty
// directory: as a layer, so that `.wh.` names become whiteouts. Nothing outside
// dir is written, whatever the archive holds: absolute links are
// taken as beginning at dir; a name that is absolute or climbs out of dir, also
// by a link, is an error. What is there already is replaced by what
// comes later in the archive.
//
// Owners that this process may not give, devices where mknod is refused and
// attributes that the file system refuses are left out with a notice. All else
// is an error, and what has been unpacked till then is left in dir. An error is
// one line; if it concerns a member of the archive it begins with its name.
func Unpack(r io.Reader, dir string, o UnpackOptions) error {
	a, err := openArchive(r)
	if err != nil {
		return err
	}
	defer a.close()
	u, err := newUnpacker(dir)
	if err != nil {
		return err
	}
	defer u.close()

	err = u.members(a)
	if failed := u.writers.finish(); failed != nil {
		err = failed // it is of an earlier member
	}
	if err != nil {
		return err
	}
	if err := a.drain(); err != nil {
		return err
	}
	if err := u.finishDirs(); err != nil {
		return err
	}
	if o.Notices != nil {
		u.notices(o.Notices)
	}
	return nil
}

// members unpacks the members of the archive, until one fails. What the regular
// files hold is left to the writers.
func (u *unpacker) members(a *archive) error {
	blocks := &blockReader{r: a}
	tr := tar.NewReader(blocks)
	for !u.writers.broken.Load() {
		blocks.zero = false
		hdr, err := tr.Next()
		if err == io.EOF {
			if !blocks.zero {
				// Cut off between two members; archive/tar takes it for the end.
				return a.cause(io.ErrUnexpectedEOF, u.count == 0)
			}
			break
		}
		if err != nil {
			if errors.Is(err, tar.ErrHeader) {
				err = errHeader
			}
			return a.cause(err, u.count == 0)
		}
		u.count++
		if err := u.member(hdr, tr); err != nil {
			var broken readError
			if errors.As(err, &broken) {
				return a.cause(broken.error, false)
			}
			return fileattr.At(hdr.Name, err)
		}
	}
	return nil
}

var errHeader = errors.New("invalid tar header")

// readError is an error of reading the archive, as against one of writing
// what it holds.
type readError struct{ error }

// blockReader notices the block of zeros that ends an archive: archive/tar
// reads headers, and between the last data and a header nothing else, in
// pieces of one block.
type blockReader struct {
	r    io.Reader
	zero bool
}

const blockSize = 512

func (b *blockReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if n == blockSize && len(p) == blockSize {
		b.zero = isZero(p)
	}
	return n, err
}

// unpacker is one run of Unpack.
type unpacker struct {
	root  *dirHandle
	cache map[string]*dirHandle // by the member's directory name, cleaned
	count int                   // of members so far

	writers *writers

	// What becomes of directories in the end: their times change, and their
	// modes may forbid, as long as something is put into them; default access
	// control lists would be inherited. By resolved name.
	dirs map[string]*fileattr.Attributes
	// whiteouts made, by the resolved name of their directory.
	whiteouts map[string]map[string]bool
	opaque    map[string]bool

	// Devices that could not be made: hard links to them cannot, either.
	skipped map[string]bool

	mu      sync.Mutex // guards what follows, which the writers change, too
	refused map[string]*refusal
}

// refusal counts what was refused for one reason.
type refusal struct {
	count  int
	member int // the first one
	first  string
	err    error
}

// dirHandle is an open directory of the tree.
type dirHandle struct {
	fd   int
	name string // without links, relative to the root; "" is the root
}

// maxOpenDirs bounds the descriptors held; the process may have only 1024.
const maxOpenDirs = 256

const openDirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

func newUnpacker(dir string) (*unpacker, error) {
	fd, err := openat(unix.AT_FDCWD, dir, openDirFlags, 0)
	if err != nil {
		return nil, errs.Path(dir, err)
	}
	u := &unpacker{
		root:      &dirHandle{fd: fd},
		cache:     map[string]*dirHandle{},
		dirs:      map[string]*fileattr.Attributes{"": implicitDir()},
		whiteouts: map[string]map[string]bool{},
		opaque:    map[string]bool{},
		skipped:   map[string]bool{},
		refused:   map[string]*refusal{},
	}
	u.writers = startWriters(func(f *newFile) error {
		return u.setAttributes(-1, "", f.fd, false, f.attr, f.member, f.name)
	})
	return u, nil
}

func (u *unpacker) close() {
	u.closeDirs(nil)
	unix.Close(u.root.fd)
}

// implicitDir are the attributes of a directory that the archive does not
// mention but has something in.
func implicitDir() *fileattr.Attributes {
	return &fileattr.Attributes{Mode: 0o755, UID: os.Geteuid(), GID: os.Getegid(), Atime: omit, Mtime: omit}
}

var omit = unix.Timespec{Nsec: unix.UTIME_OMIT}

// member unpacks one member of the archive, whose content r gives.
func (u *unpacker) member(hdr *tar.Header, r io.Reader) error {
	switch hdr.Typeflag {
	case tar.TypeXGlobalHeader, 'V': // comments and the volume's label: no file
		return nil
	case 'M':
		return errors.New("continued from another volume")
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	base := path.Base(name)
	if strings.HasPrefix(base, whiteoutPrefix) && hdr.Typeflag != tar.TypeDir {
		dir, err := u.dir(parentOf(name), true)
		if err != nil {
			return err
		}
		return u.whiteout(dir, base[len(whiteoutPrefix):])
	}
	attr, err := u.attributes(hdr)
	if err != nil {
		return err
	}
	if name == "" {
		if hdr.Typeflag != tar.TypeDir {
			return errors.New("the root can only be a directory")
		}
		u.dirs[""] = attr
		return nil
	}

	var target string
	var linked *dirHandle
	if hdr.Typeflag == tar.TypeLink {
		if target, linked, err = u.linkTarget(hdr.Linkname); err != nil {
			return err
		}
		defer unix.Close(linked.fd)
	}
	dir, err := u.dir(parentOf(name), true)
	if err != nil {
		return err
	}
	link := false
	switch hdr.Typeflag {
	case tar.TypeDir, 'D': // D: a directory of GNU tar's incremental backups
		return u.makeDir(dir, base, attr)
	case tar.TypeLink:
		return u.hardLink(hdr, linked, target, dir, base)
	case tar.TypeSymlink:
		link = true
		err = u.place(dir, base, func() error { return unix.Symlinkat(hdr.Linkname, dir.fd, base) })
	case tar.TypeFifo:
		err = u.place(dir, base, func() error { return unix.Mknodat(dir.fd, base, unix.S_IFIFO|0o600, 0) })
	case tar.TypeChar, tar.TypeBlock:
		made := false
		if made, err = u.device(hdr, dir, base); err == nil && !made {
			return nil
		}
	default: // POSIX: what is not known is a regular file
		return u.regular(hdr, dir, base, attr, r)
	}
	if err != nil {
		return err
	}
	return u.setAttributes(dir.fd, base, -1, link, attr, u.count, hdr.Name)
}

// regular makes a regular file, which the writers fill.
func (u *unpacker) regular(hdr *tar.Header, dir *dirHandle, base string, attr *fileattr.Attributes, r io.Reader) error {
	f := &newFile{member: u.count, name: hdr.Name, attr: attr}
	err := u.place(dir, base, func() (err error) {
		f.fd, err = openat(dir.fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	if err := u.writers.take(f, r, hdr.Size); err != nil {
		return readError{err}
	}
	return nil
}

// attributes returns what the header says of a member's attributes, without
// those that would mean something to the union.
func (u *unpacker) attributes(hdr *tar.Header) (*fileattr.Attributes, error) {
	a := &fileattr.Attributes{Mode: uint32(hdr.Mode) & 0o7777, UID: hdr.Uid, GID: hdr.Gid, Atime: omit}
	var err error
	if a.Mtime, err = unix.TimeToTimespec(hdr.ModTime); err != nil {
		return nil, err
	}
	list, bad := fileattr.FromRecords(hdr.PAXRecords)
	for _, err := range bad {
		u.refuse("extended attributes", u.count, hdr.Name, err)
	}
	for _, x := range list {
		if x.Name = storedXattr(x.Name); x.Name != "" {
			a.Xattrs = append(a.Xattrs, x)
		}
	}
	return a, nil
}

// storedXattr returns the name under which a layer has an extended attribute
// of its files. Those named as the marks of overlayfs are escaped as it does
// itself, so that they are plain attributes of the image: a union inside it may
// need them. "" is for what is no part of a root filesystem: the marks of
// fuse-overlayfs, for which there is no such escape, and the labels of the
// security policy of the host on which the archive was made.
func storedXattr(name string) string {
	for _, prefix := range []string{"user.overlay.", "trusted.overlay."} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			return prefix + "overlay." + rest
		}
	}
	if name == "security.selinux" || strings.HasPrefix(name, "user.fuseoverlayfs.") {
		return ""
	}
	return name
}

// cleanName returns a member's name relative to the root, "" for the root.
func cleanName(name string) (string, error) {
	if strings.HasPrefix(name, "/") && path.Clean(name) != "/" {
		return "", errors.New("the name is absolute")
	}
	name = path.Clean(strings.TrimLeft(name, "/"))
	if name == "." {
		return "", nil
	}
	if name == ".." || strings.HasPrefix(name, "../") {
		return "", errors.New("the name leads out of the archive's root")
	}
	if len(name) >= maxPath {
		return "", unix.ENAMETOOLONG
	}
	return name, nil
}

// dir opens a directory of the tree, following links inside it. make: what is
// missing is made. The handle is valid till the next call, but the handle of
// the call before may not be.
func (u *unpacker) dir(name string, make bool) (*dirHandle, error) {
	links := 0
	return u.walk(name, make, &links)
}

const maxLinks = 40 // as the kernel

// maxPath bounds names, those in which links have been followed too, as the
// kernel does: a thousand bytes of compressed archive could otherwise hold a
// name of a million directories, which takes the square of that to remember.
const maxPath = unix.PathMax

func (u *unpacker) walk(name string, make bool, links *int) (*dirHandle, error) {
	if name == "" {
		return u.root, nil
	}
	if d := u.cache[name]; d != nil {
		return d, nil
	}
	base := path.Base(name)
	parent, err := u.walk(parentOf(name), make, links)
	if err != nil {
		return nil, err
	}
	resolved := path.Join(parent.name, base)
	if resolved == name {
		resolved = name // one copy for all directories of a member
	}
	if len(resolved) >= maxPath {
		return nil, unix.ENAMETOOLONG
	}
	fd, err := openat(parent.fd, base, openDirFlags, 0)
	if err == unix.ENOENT && make {
		if err = u.mkdir(parent, base); err == nil {
			u.dirs[resolved] = implicitDir()
			fd, err = openat(parent.fd, base, openDirFlags, 0)
		}
	}
	if err == unix.ENOTDIR || err == unix.ELOOP {
		if u.whiteouts[parent.name][base] && make {
			// Removed below, and made anew here.
			if err := u.makeDir(parent, base, implicitDir()); err != nil {
				return nil, err
			}
			return u.walk(name, make, links)
		}
		target, err := readlinkat(parent.fd, base)
		if err != nil { // no link, either
			return nil, fmt.Errorf("%s is not a directory", fileattr.Show(resolved))
		}
		d, err := u.follow(parent.name, target, links)
		if err != nil {
			var inner linkError
			if errors.As(err, &inner) { // the first of a chain of links says enough
				err = inner.err
			}
			return nil, linkError{resolved, target, err}
		}
		// A handle of its own, since each is closed once.
		if fd, err = unix.FcntlInt(uintptr(d.fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return nil, err
		}
		resolved = d.name
	} else if err != nil {
		return nil, err
	}
	d := &dirHandle{fd, resolved}
	if len(u.cache) >= maxOpenDirs {
		u.closeDirs(nil)
	}
	u.cache[name] = d
	return d, nil
}

// linkError says that a name leads through a link to nowhere.
type linkError struct {
	link, target string
	err          error
}

func (e linkError) Error() string {
	return fmt.Sprintf("leads through the link %s -> %s: %s", fileattr.Show(e.link), fileattr.Show(e.target), errs.Text(e.err))
}

var errOutside = errors.New("out of the archive's root")

// follow returns the directory that a link with this target in the directory
// at means when the unpacked tree is the root. It makes nothing: a link to
// nowhere in the archive was meant to lead out of it.
func (u *unpacker) follow(at, target string, links *int) (*dirHandle, error) {
	if *links++; *links > maxLinks {
		return nil, unix.ELOOP
	}
	if strings.HasPrefix(target, "/") {
		at = ""
	}
	for _, part := range strings.Split(target, "/") {
		switch part {
		case "", ".":
		case "..":
			if at == "" {
				return nil, errOutside
			}
			at = parentOf(at)
		default:
			d, err := u.walk(path.Join(at, part), false, links)
			if err == unix.ENOENT {
				err = errOutside
			}
			if err != nil {
				return nil, err
			}
			at = d.name
		}
	}
	return u.walk(at, false, links)
}

// parentOf returns the name of the directory that name is in.
func parentOf(name string) string {
	dir, _ := path.Split(name)
	return strings.TrimSuffix(dir, "/")
}

// closeDirs closes the open directories but keep.
func (u *unpacker) closeDirs(keep *dirHandle) {
	for name, d := range u.cache {
		if d != keep {
			unix.Close(d.fd)
			delete(u.cache, name)
		}
	}
}

// mkdir makes a directory with which only we can do something till the end.
func (u *unpacker) mkdir(dir *dirHandle, base string) error {
	return fileattr.Retry(func() error { return unix.Mkdirat(dir.fd, base, 0o700) })
}

func (u *unpacker) makeDir(dir *dirHandle, base string, attr *fileattr.Attributes) error {
	err := u.mkdir(dir, base)
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err := fstatat(dir.fd, base, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			hidden := u.whiteouts[dir.name][base]
			if err := u.remove(dir, base, &st); err != nil {
				return err
			}
			if err := u.mkdir(dir, base); err != nil {
				return err
			}
			if hidden {
				if err := u.markOpaque(dir.fd, base, path.Join(dir.name, base)); err != nil {
					return err
				}
			}
		}
	} else if err != nil {
		return err
	}
	u.dirs[path.Join(dir.name, base)] = attr
	return nil
}

// place calls create, which makes the entry base in dir, after removing what
// has this name.
func (u *unpacker) place(dir *dirHandle, base string, create func() error) error {
	err := fileattr.Retry(create)
	if err != unix.EEXIST {
		return err
	}
	var st unix.Stat_t
	if err := fstatat(dir.fd, base, &st); err != nil {
		return err
	}
	if err := u.remove(dir, base, &st); err != nil {
		return err
	}
	return fileattr.Retry(create)
}

// remove removes what has been unpacked as base in dir.
func (u *unpacker) remove(dir *dirHandle, base string, st *unix.Stat_t) error {
	delete(u.whiteouts[dir.name], base)
	if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFDIR || kind == unix.S_IFLNK {
		u.closeDirs(dir) // what was reached through it is no longer there
		if kind == unix.S_IFDIR {
			u.forget(path.Join(dir.name, base))
			return tree.Remove(fmt.Sprintf("/proc/self/fd/%d/%s", dir.fd, base))
		}
	}
	return fileattr.Retry(func() error { return unix.Unlinkat(dir.fd, base, 0) })
}

// forget forgets what was to be done with a directory and those below it.
func (u *unpacker) forget(name string) {
	gone := func(n string) bool { return n == name || strings.HasPrefix(n, name+"/") }
	maps.DeleteFunc(u.dirs, func(n string, _ *fileattr.Attributes) bool { return gone(n) })
	maps.DeleteFunc(u.whiteouts, func(n string, _ map[string]bool) bool { return gone(n) })
	maps.DeleteFunc(u.opaque, func(n string, _ bool) bool { return gone(n) })
}

// linkTarget returns the name and directory of what a hard link links to. The
// caller closes the directory.
func (u *unpacker) linkTarget(linkname string) (string, *dirHandle, error) {
	name, err := cleanName(linkname)
	if err == nil && name == "" {
		err = errors.New("a directory")
	}
	var d *dirHandle
	if err == nil {
		d, err = u.dir(parentOf(name), false)
	}
	if err == unix.ENOENT {
		err = errNoTarget
	}
	var fd int
	if err == nil {
		fd, err = unix.FcntlInt(uintptr(d.fd), unix.F_DUPFD_CLOEXEC, 0)
	}
	if err != nil {
		return "", nil, hardLinkError(linkname, err)
	}
	return path.Base(name), &dirHandle{fd, d.name}, nil
}

var errNoTarget = errors.New("not in the archive")

func hardLinkError(target string, err error) error {
	return fmt.Errorf("hard link to %s: %s", fileattr.Show(target), errs.Text(err))
}

func (u *unpacker) hardLink(hdr *tar.Header, from *dirHandle, target string, dir *dirHandle, base string) error {
	if u.skipped[path.Join(from.name, target)] {
		u.skipped[path.Join(dir.name, base)] = true
		return nil
	}
	var old, st unix.Stat_t
	if err := fstatat(from.fd, target, &old); err == unix.ENOENT || u.whiteouts[from.name][target] {
		return hardLinkError(hdr.Linkname, errNoTarget)
	} else if err != nil {
		return hardLinkError(hdr.Linkname, err)
	}
	if fstatat(dir.fd, base, &st) == nil && st.Ino == old.Ino && st.Dev == old.Dev {
		return nil // itself
	}
	err := u.place(dir, base, func() error { return unix.Linkat(from.fd, target, dir.fd, base, 0) })
	if err == unix.EPERM {
		return hardLinkError(hdr.Linkname, err)
	}
	return err
}

// device makes a device node; false if it was left out since it is refused
// here, as in every user namespace.
func (u *unpacker) device(hdr *tar.Header, dir *dirHandle, base string) (bool, error) {
	kind := uint32(unix.S_IFCHR)
	if hdr.Typeflag == tar.TypeBlock {
		kind = unix.S_IFBLK
	}
	dev := unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
	err := u.place(dir, base, func() error { return unix.Mknodat(dir.fd, base, kind|0o600, int(dev)) })
	if err == unix.EPERM {
		u.refuse("device nodes", u.count, hdr.Name, err)
		u.skipped[path.Join(dir.name, base)] = true
		return false, nil
	}
	return true, err
}

// setAttributes sets attributes as fileattr.Set does. name is that of the member
// with this number.
func (u *unpacker) setAttributes(dirfd int, base string, fd int, link bool, attr *fileattr.Attributes, member int, name string) error {
	return fileattr.Set(dirfd, base, fd, link, attr, func(what string, err error) error {
		switch {
		case what == fileattr.Owner && (err == unix.EPERM || err == unix.EINVAL):
			if err == unix.EINVAL {
				err = errUnmapped
			}
			u.refuse("owners", member, name, err)
		case what == fileattr.Owner || what == fileattr.Mode || what == fileattr.Times:
			return err
		case err == unix.EPERM || err == unix.EACCES || err == unix.EOPNOTSUPP || err == unix.EINVAL:
			u.refuse("extended attributes", member, name, errs.Path(fileattr.Show(what), err))
		default:
			return errs.Path(fileattr.Show(what), err)
		}
		return nil
	})
}

var errUnmapped = errors.New("only ids that are mapped into the user namespace can own files here")

// finishDirs gives the directories their attributes, the deepest first: what
// is done in a directory changes its times, and its mode may shut us out.
func (u *unpacker) finishDirs() error {
	names := make([]string, 0, len(u.dirs))
	for name := range u.dirs {
		names = append(names, name)
	}
	sort.Sort(sort.Reverse(sort.StringSlice(names)))
	for _, name := range names {
		parent, base := u.root, "."
		if name != "" {
			var err error
			if parent, err = u.dir(parentOf(name), false); err != nil {
				continue // replaced by something else since
			}
			base = path.Base(name)
		}
		fd, err := openat(parent.fd, base, openDirFlags, 0)
		if err != nil {
			continue
		}
		err = u.setAttributes(parent.fd, base, fd, false, u.dirs[name], u.count, "./"+name)
		unix.Close(fd)
		if err != nil {
			return fileattr.At("./"+name, err)
		}
	}
	return nil
}

// refuse remembers that something of the member with this number was left out.
func (u *unpacker) refuse(what string, member int, name string, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := u.refused[what]
	if r == nil {
		r = &refusal{member: member, first: name, err: err}
		u.refused[what] = r
	}
	if member < r.member {
		r.member, r.first, r.err = member, name, err
	}
	r.count++
}

// notices says what was left out.
func (u *unpacker) notices(w io.Writer) {
	kinds := make([]string, 0, len(u.refused))
	for what := range u.refused {
		kinds = append(kinds, what)
	}
	sort.Strings(kinds)
	for _, what := range kinds {
		r := u.refused[what]
		fmt.Fprintf(w, "plash: %s could not be kept, %d in all, the first at %s: %s\n", what, r.count, fileattr.Show(r.first), errs.Text(r.err))
	}
}

func openat(dir int, name string, flags int, mode uint32) (fd int, err error) {
	err = fileattr.Retry(func() error {
		fd, err = unix.Openat(dir, name, flags, mode)
		return err
	})
	return fd, err
}

func fstatat(dir int, name string, st *unix.Stat_t) error {
	return fileattr.Retry(func() error { return unix.Fstatat(dir, name, st, unix.AT_SYMLINK_NOFOLLOW) })
}

func readlinkat(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	return string(buf[:max(n, 0)]), err
}
