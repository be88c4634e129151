package fs_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// An op is one operation, as data, so that a part of a sequence can be done
// again.
type op struct {
	Proc int    // which process does it
	Kind string // a key of kinds, or "remount"
	A, B string // paths below the mountpoint
	N    int    // what else it needs
	Par  bool   // at the same time as its neighbours that have this, too
	Look bool   // look at A and B afterwards
}

func (o op) String() string {
	s := fmt.Sprintf("%d %s %s %s %d", o.Proc, o.Kind, short(o.A), short(o.B), o.N)
	if o.Par {
		s += " par"
	}
	if o.Look {
		s += " look"
	}
	return s
}

// short shortens the long names.
func short(path string) string {
	path = strings.ReplaceAll(path, tooLong, "TOOLONG")
	return strings.ReplaceAll(path, longest, "LONGEST")
}

var (
	pool    = []string{"a", "b", "c", "d", "e", "f"}
	longest = strings.Repeat("l", 255)
	tooLong = longest + "l"
	// targets of symlinks lead downwards: a process stays in its subtree.
	targets = []string{"a", "b", "c", "d/e", "a/b", "no/such", ".", "f/f/f"}
)

// weights says how often there is which kind of operation.
var weights = map[string]int{
	"write": 6, "append": 3, "truncopen": 3, "create": 4, "direct": 1, "truncate": 3, "fallocate": 3, "copyrange": 3, "mmap": 3,
	"unlink": 7, "mkdir": 6, "rmdir": 5, "rmtree": 2, "rename": 12, "rename2": 5, "link": 4, "symlink": 2, "mknod": 3,
	"tmpfile": 2, "orphan": 3, "chmod": 5, "chown": 4, "utimes": 4, "setxattr": 5, "removexattr": 2, "acl": 2, "caps": 1,
	"list": 3, "pieces": 3, "stat": 4, "access": 3, "read": 3, "readlink": 1, "ino": 3, "inotify": 1, "umask": 1,
	"hold": 5, "use": 9, "lock": 3, "close": 1, "remount": 0,
}

// randomOps makes n operations of a seed. Every 250 the trees are compared,
// and each second hundred of them is done by all processes at the same time,
// each in its subtree.
func randomOps(seed uint64, n int) []op {
	r := rand.New(rand.NewPCG(seed, 1))
	var deck []string
	for kind, weight := range weights {
		for range weight {
			deck = append(deck, kind)
		}
	}
	slices.Sort(deck)
	ops := make([]op, n)
	for i := range ops {
		if i%250 == 249 {
			ops[i] = op{Kind: "remount"}
			continue
		}
		o := op{Proc: r.IntN(len(users)), Kind: deck[r.IntN(len(deck))], N: r.IntN(10000), Par: i/100%2 == 1, Look: r.IntN(2) == 0}
		if o.Par {
			o.Look = false
			if o.Kind == "hold" || o.Kind == "use" || o.Kind == "lock" || o.Kind == "close" {
				o.Kind = "write" // it may be a file of another subtree
			}
		}
		// The subtrees share no files, so nothing is moved between them.
		dir := ""
		if o.Par {
			dir = subtree(o.Proc)
		} else if k := r.IntN(2 * len(users)); k < len(users) {
			dir = subtree(k)
		}
		o.A, o.B = filepath.Join(dir, randomPath(r)), filepath.Join(dir, randomPath(r))
		ops[i] = o
	}
	return ops
}

func randomPath(r *rand.Rand) string {
	parts := make([]string, 1+r.IntN(3))
	for i := range parts {
		switch n := r.IntN(100); n {
		case 0:
			parts[i] = longest
		case 1:
			parts[i] = tooLong
		default:
			parts[i] = pool[n%len(pool)]
		}
	}
	return filepath.Join(parts...)
}

// A worker is the state of a process that does operations.
type worker struct {
	task
	slots [4]*os.File // files that are kept open
}

// work does the operations that standard input brings.
func work(text string) error {
	var w worker
	if err := json.Unmarshal([]byte(text), &w.task); err != nil {
		return err
	}
	unix.Umask(0o022)
	if w.UID != 0 {
		if err := syscall.Setgroups([]int{w.GID, 2000}); err != nil {
			return err
		}
		if err := syscall.Setresgid(w.GID, w.GID, w.GID); err != nil {
			return err
		}
		if err := syscall.Setresuid(w.UID, w.UID, w.UID); err != nil {
			return err
		}
	}
	if _, err := os.Stat(w.Mnt); err != nil {
		return err
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o op
		if err := in.Decode(&o); err != nil {
			return nil // the test has ended
		}
		if err := out.Encode(kinds[o.Kind](&w, filepath.Join(w.Mnt, o.A), filepath.Join(w.Mnt, o.B), o.N)); err != nil {
			return nil
		}
	}
}

// result words an outcome.
func result(err error, more ...any) string {
	if err != nil {
		switch e := err.(type) {
		case *os.PathError:
			err = e.Err
		case *os.LinkError:
			err = e.Err
		case *os.SyscallError:
			err = e.Err
		}
		return err.Error()
	}
	return "ok " + fmt.Sprint(more...)
}

// kinds are what an operation does with its paths a and b and its number n. It
// returns what came of it.
var kinds map[string]func(w *worker, a, b string, n int) string

func init() {
	kinds = map[string]func(w *worker, a, b string, n int) string{
		"write": func(w *worker, a, b string, n int) string {
			return writeAt(a, os.O_RDWR|os.O_CREATE, int64(n), strings.Repeat("w", n%300))
		},
		"append": func(w *worker, a, b string, n int) string {
			return writeAt(a, os.O_WRONLY|os.O_APPEND, -1, strings.Repeat("a", n%300))
		},
		"truncopen": func(w *worker, a, b string, n int) string {
			return writeAt(a, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0, "replaced")
		},
		"create": func(w *worker, a, b string, n int) string {
			return writeAt(a, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0, "new")
		},
		"direct":    direct,
		"truncate":  func(w *worker, a, b string, n int) string { return result(unix.Truncate(a, int64(n))) },
		"fallocate": fallocate,
		"copyrange": copyrange,
		"mmap":      mmap,
		"unlink":    func(w *worker, a, b string, n int) string { return result(unix.Unlink(a)) },
		"mkdir": func(w *worker, a, b string, n int) string {
			return result(unix.Mkdir(a, []uint32{0o755, 0o777, 0o1777, 0o2775}[n%4]))
		},
		"rmdir":  func(w *worker, a, b string, n int) string { return result(unix.Rmdir(a)) },
		"rmtree": rmtree,
		"rename": func(w *worker, a, b string, n int) string { return result(unix.Rename(a, b)) },
		"rename2": func(w *worker, a, b string, n int) string {
			flags := []uint{unix.RENAME_EXCHANGE, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE | unix.RENAME_NOREPLACE, unix.RENAME_WHITEOUT}[n/3%4]
			return result(unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, flags))
		},
		"link": func(w *worker, a, b string, n int) string {
			return result(unix.Linkat(unix.AT_FDCWD, a, unix.AT_FDCWD, b, n%2*unix.AT_SYMLINK_FOLLOW))
		},
		"symlink": func(w *worker, a, b string, n int) string { return result(unix.Symlink(targets[n%len(targets)], a)) },
		"mknod": func(w *worker, a, b string, n int) string {
			typ := []uint32{unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFREG}[n%5]
			return result(unix.Mknod(a, typ|0o644, n/5%2*int(unix.Mkdev(1, 3))))
		},
		"tmpfile": tmpfile,
		"orphan":  orphan,
		"chmod":   func(w *worker, a, b string, n int) string { return result(unix.Chmod(a, mode(n))) },
		"chown": func(w *worker, a, b string, n int) string {
			ids := []int{0, 1000, 1001, 2000, -1}
			return result(unix.Lchown(a, ids[n%5], ids[n/5%4])) // not both -1: without writeback that looks like a write
		},
		"utimes":   utimes,
		"setxattr": setxattrOp,
		"removexattr": func(w *worker, a, b string, n int) string {
			return result(unix.Lremovexattr(a, []string{"user.x", "trusted.x", "security.capability", "system.posix_acl_default"}[n%4]))
		},
		"acl":  setACL,
		"caps": caps,
		"list": func(w *worker, a, b string, n int) string { return listing(a) },
		"pieces": func(w *worker, a, b string, n int) string {
			return pieces(a, pool[n%len(pool)], n/10%2 == 0)
		},
		"stat": func(w *worker, a, b string, n int) string {
			var st unix.Stat_t
			err := unix.Stat(a, &st)
			return result(err, attributes(&st))
		},
		"access": func(w *worker, a, b string, n int) string { return result(unix.Access(a, uint32(n%8))) },
		"read":   func(w *worker, a, b string, n int) string { return content(a) },
		"readlink": func(w *worker, a, b string, n int) string {
			buf := make([]byte, 200)
			k, err := unix.Readlink(a, buf)
			return result(err, string(buf[:max(k, 0)]))
		},
		"ino":      sameIno,
		"inotify":  inotify,
		"umask":    func(w *worker, a, b string, n int) string { return result(nil, unix.Umask(n%0o100)) },
		"hold":     (*worker).hold,
		"use":      (*worker).use,
		"lock":     (*worker).lock,
		"close":    (*worker).closeAll,
		"touchdir": func(w *worker, a, b string, n int) string { return result(unix.Utimes(filepath.Dir(a), nil)) },
		"look":     func(w *worker, a, b string, n int) string { return look(a) + "; " + look(b) },
	}
}

// mode returns any permissions that let the owner read and write, but no set-gid
// bit without execution by the group: whether writing drops that one depends on
// the writer's groups, which the FUSE protocol leaves out.
func mode(n int) uint32 {
	m := uint32(n%0o10000 | 0o600)
	return m | m&unix.S_ISGID>>7
}

// attributes is describe and, for all but directories, the number of links: the
// kernel counts no subdirectories in a merged directory.
func attributes(st *unix.Stat_t) string {
	s := describe(st)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		s += fmt.Sprint(" links ", st.Nlink)
	}
	return s
}

// look tells all about path and its directory.
func look(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return result(err) + " in " + listing(filepath.Dir(path))
	}
	s := attributes(&st) + " " + xattrs(path) + " in " + listing(filepath.Dir(path))
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		s += " " + content(path)
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		s += result(err, target)
	case unix.S_IFDIR:
		s += listing(path)
	}
	return s
}

// listing lists a directory. It mentions names whose number is not that of
// their stat.
func listing(path string) string {
	f, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err != nil {
		return result(err)
	}
	defer f.Close()
	return result(nil, readAll(f, path))
}

func readAll(f *os.File, path string) []string {
	var names []string
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.Getdents(int(f.Fd()), buf)
		if err != nil {
			return append(names, err.Error())
		}
		if n == 0 {
			slices.Sort(names)
			return names
		}
		for _, e := range entries(buf[:n]) {
			var st unix.Stat_t
			if e.name != "." && e.name != ".." && unix.Lstat(filepath.Join(path, e.name), &st) == nil && st.Ino != e.ino {
				e.name += " (another number)"
			}
			names = append(names, short(e.name)+fmt.Sprint(":", e.typ))
		}
	}
}

type entry struct {
	name string
	ino  uint64
	typ  byte
}

// entries decodes struct linux_dirent64.
func entries(buf []byte) []entry {
	var out []entry
	for len(buf) > 0 {
		size := binary.NativeEndian.Uint16(buf[16:])
		name, _, _ := strings.Cut(string(buf[19:size]), "\x00")
		out = append(out, entry{name, binary.NativeEndian.Uint64(buf), buf[18]})
		buf = buf[size:]
	}
	return out
}

// pieces lists a directory in pieces. In between a name is removed or made,
// which may then be listed or not; all others must be, once. Then the
// directory is listed from the beginning again.
func pieces(path, name string, remove bool) string {
	f, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err != nil {
		return result(err)
	}
	defer f.Close()
	var names []string
	buf := make([]byte, 300) // room for the longest name
	for i := 0; ; i++ {
		n, err := unix.Getdents(int(f.Fd()), buf)
		if err != nil {
			return result(err)
		}
		if n == 0 {
			break
		}
		for _, e := range entries(buf[:n]) {
			if e.name != name {
				names = append(names, short(e.name))
			}
		}
		if i == 0 && remove {
			err = unix.Unlink(filepath.Join(path, name))
		} else if i == 0 {
			err = unix.Mknod(filepath.Join(path, name), unix.S_IFREG|0o600, 0)
		}
		if i == 0 {
			names = append(names, result(err))
		}
	}
	slices.Sort(names)
	if _, err := f.Seek(0, 0); err != nil {
		return result(err)
	}
	return result(nil, names, readAll(f, path))
}

// regular opens a regular file, and nothing that would have to be waited for.
func regular(path string, flags int, mode uint32) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, mode)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		if err == nil {
			err = fmt.Errorf("no regular file: %o", st.Mode)
		}
		return nil, err
	}
	unix.SetNonblock(fd, false) // poll(2) is not of interest here
	return os.NewFile(uintptr(fd), path), nil
}

// writeAt writes data at off, or wherever it goes if that is negative.
func writeAt(path string, flags int, off int64, data string) string {
	f, err := regular(path, flags, 0o666)
	if err != nil {
		return result(err)
	}
	defer f.Close()
	if off < 0 {
		_, err = f.WriteString(data)
	} else {
		_, err = f.WriteAt([]byte(data), off)
	}
	return result(err)
}

func content(path string) string {
	f, err := regular(path, os.O_RDONLY, 0)
	if err != nil {
		return result(err)
	}
	defer f.Close()
	return result(nil, contentOf(f))
}

func contentOf(f *os.File) string {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err.Error()
	}
	buf := make([]byte, st.Size+1)
	n, _ := f.ReadAt(buf, 0)
	return fmt.Sprintf("%d bytes %x", n, sha256.Sum256(buf[:n]))[:40]
}

// direct writes and reads a page around the page cache.
func direct(w *worker, a, b string, n int) string {
	f, err := regular(a, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return result(err)
	}
	defer f.Close()
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return result(err)
	}
	defer unix.Munmap(page)
	copy(page, "direct")
	off := int64(n%4) * 4096
	_, werr := unix.Pwrite(int(f.Fd()), page, off)
	k, err := unix.Pread(int(f.Fd()), page, off)
	return result(werr) + result(err, k, string(page[:6]))
}

func fallocate(w *worker, a, b string, n int) string {
	f, err := regular(a, os.O_RDWR, 0)
	if err != nil {
		return result(err)
	}
	defer f.Close()
	modes := []uint32{
		0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
		unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE,
	}
	err = unix.Fallocate(int(f.Fd()), modes[n%len(modes)], int64(n), int64(n/2))
	return result(err, contentOf(f))
}

func copyrange(w *worker, a, b string, n int) string {
	src, err := regular(a, os.O_RDONLY, 0)
	if err != nil {
		return result(err)
	}
	defer src.Close()
	dst, err := regular(b, os.O_RDWR, 0)
	if err != nil {
		return result(err)
	}
	defer dst.Close()
	in, out := int64(n%5000), int64(n%3000)
	k, err := unix.CopyFileRange(int(src.Fd()), &in, int(dst.Fd()), &out, n, 0)
	return result(err, k, contentOf(dst))
}

// mmap writes through one shared mapping and reads through another one.
func mmap(w *worker, a, b string, n int) string {
	f, err := regular(a, os.O_RDWR, 0)
	if err != nil {
		return result(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Size == 0 {
		return result(err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return result(err)
	}
	defer unix.Munmap(m)
	copy(m[n%len(m):], "mapped")
	if n%2 == 0 {
		if err := unix.Msync(m, unix.MS_SYNC); err != nil {
			return result(err)
		}
	}
	_, err = f.WriteAt([]byte("written"), int64(n/3%len(m)))
	return result(err, fmt.Sprintf("%x", sha256.Sum256(m)), contentOf(f))
}

func rmtree(w *worker, a, b string, n int) string {
	if dir, err := os.Stat(filepath.Dir(a)); err != nil || !dir.IsDir() {
		return result(err) // RemoveAll would wait for a FIFO
	}
	err := os.RemoveAll(a)
	if err != nil && w.UID != 0 {
		return "not all of it" // which error comes first depends on the order
	}
	return result(err)
}

// tmpfile makes a file without a name and gives it one.
func tmpfile(w *worker, a, b string, n int) string {
	fd, err := unix.Open(filepath.Dir(a), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o666)
	if err != nil {
		return result(err)
	}
	f := os.NewFile(uintptr(fd), a)
	defer f.Close()
	f.WriteString("nameless")
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return result(err)
	}
	if n%4 == 0 {
		return result(nil, attributes(&st))
	}
	return result(unix.Linkat(unix.AT_FDCWD, fmt.Sprint("/proc/self/fd/", fd), unix.AT_FDCWD, a, unix.AT_SYMLINK_FOLLOW)) + attributes(&st)
}

// orphan uses a file, or a directory, that has been removed meanwhile.
func orphan(w *worker, a, b string, n int) string {
	var was unix.Stat_t
	if err := unix.Lstat(a, &was); err != nil {
		return result(err)
	}
	if was.Mode&unix.S_IFMT == unix.S_IFDIR {
		return orphanDir(a)
	}
	f, err := regular(a, os.O_RDWR, 0)
	if err != nil {
		return result(err)
	}
	defer f.Close()
	if err := unix.Unlink(a); err != nil {
		return result(err)
	}
	_, werr := f.WriteAt([]byte("orphan"), int64(n))
	cerr := f.Chmod(0o640)
	xerr := unix.Fsetxattr(int(f.Fd()), "user.x", []byte("orphan"), 0)
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	return result(werr) + result(cerr) + result(xerr) + result(err, attributes(&st), contentOf(f))
}

func orphanDir(path string) string {
	f, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err != nil {
		return result(err)
	}
	defer f.Close()
	if err := unix.Rmdir(path); err != nil {
		return result(err)
	}
	merr := unix.Mkdirat(int(f.Fd()), "x", 0o755)
	cerr := unix.Fchmod(int(f.Fd()), 0o700)
	if cerr == unix.ENOTDIR { // what the kernel says of one that was not copied up
		cerr = unix.ENOENT
	}
	n, err := unix.Getdents(int(f.Fd()), make([]byte, 4096))
	var st unix.Stat_t
	unix.Fstat(int(f.Fd()), &st)
	return result(merr) + result(cerr) + result(err, n, describe(&st))
}

func utimes(w *worker, a, b string, n int) string {
	at := func(n int) unix.Timespec {
		switch n % 5 {
		case 0:
			return unix.Timespec{Nsec: unix.UTIME_OMIT}
		case 1:
			return unix.Timespec{Nsec: unix.UTIME_NOW}
		}
		return unix.Timespec{Sec: 1e9 + int64(n), Nsec: int64(n) * 99991 % 1e9}
	}
	return result(unix.UtimesNanoAt(unix.AT_FDCWD, a, []unix.Timespec{at(n / 5), at(n)}, unix.AT_SYMLINK_NOFOLLOW))
}

func setxattrOp(w *worker, a, b string, n int) string {
	name := []string{"user.x", "user.y", "trusted.x", w.Prefix + "opaque", "user.x"}[n%5]
	return result(unix.Lsetxattr(a, name, []byte(strings.Repeat("v", n/5%100)), []int{0, unix.XATTR_CREATE, unix.XATTR_REPLACE}[n/7%3]))
}

// setACL sets an ACL with an entry for user 1001.
func setACL(w *worker, a, b string, n int) string {
	value := aclOf(uint16(n%8), uint16(n/8%8))
	return result(unix.Lsetxattr(a, []string{"system.posix_acl_access", "system.posix_acl_default"}[n%2], value, 0))
}

// aclOf is the value of an ACL by which the owner may do all, user 1001 what
// user says, the group read and execute, and all others what other says: version
// 2, then per entry tag, permissions and id (linux/posix_acl_xattr.h).
func aclOf(user, other uint16) []byte {
	return acl(aclEntry{1, 7, ^uint32(0)}, aclEntry{2, user, 1001}, aclEntry{4, 5, ^uint32(0)}, aclEntry{16, 7, ^uint32(0)}, aclEntry{32, other, ^uint32(0)})
}

// An aclEntry is one of an ACL, see linux/posix_acl_xattr.h.
type aclEntry struct {
	tag, perm uint16
	id        uint32
}

func acl(entries ...aclEntry) []byte {
	value := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		value = binary.LittleEndian.AppendUint16(value, e.tag)
		value = binary.LittleEndian.AppendUint16(value, e.perm)
		value = binary.LittleEndian.AppendUint32(value, e.id)
	}
	return value
}

// caps gives a program a capability.
func caps(w *worker, a, b string, n int) string {
	return result(unix.Lsetxattr(a, "security.capability", fileCaps(), 0))
}

// fileCaps is the value that stands for CAP_NET_RAW, revision 2
// (linux/capability.h).
func fileCaps() []byte {
	value := make([]byte, 20)
	binary.LittleEndian.PutUint32(value, 0x02000001)
	binary.LittleEndian.PutUint32(value[4:], 1<<13)
	return value
}

// sameIno tells whether the number stays when the object is changed.
func sameIno(w *worker, a, b string, n int) string {
	var was, is unix.Stat_t
	if err := unix.Lstat(a, &was); err != nil {
		return result(err)
	}
	cerr := unix.Lchown(a, -1, w.GID)
	if was.Mode&unix.S_IFMT == unix.S_IFREG && n%2 == 0 {
		cerr = unix.Truncate(a, int64(n%100))
	}
	err := unix.Lstat(a, &is)
	return result(cerr) + result(err, was.Ino == is.Ino)
}

// inotify tells what events a directory reports of a file in it.
func inotify(w *worker, a, b string, n int) string {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return result(err)
	}
	defer unix.Close(fd)
	mask := uint32(unix.IN_CREATE | unix.IN_DELETE | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_MOVE | unix.IN_CLOSE_WRITE)
	if _, err := unix.InotifyAddWatch(fd, a, mask|unix.IN_ONLYDIR); err != nil {
		return result(err)
	}
	path := filepath.Join(a, "watched")
	done := writeAt(path, os.O_WRONLY|os.O_CREATE, 0, "watched")
	done += result(unix.Chmod(path, 0o644))
	done += result(unix.Rename(path, path+"2"))
	done += result(unix.Unlink(path + "2"))
	events, err := notifications(fd)
	var lines []string
	for _, e := range events {
		lines = append(lines, fmt.Sprintf("%x %s", e.mask, e.name))
	}
	return done + result(err, lines)
}

type notification struct {
	wd   int
	mask uint32
	name string
}

// notifications reads what an inotify descriptor has, see inotify(7).
func notifications(fd int) ([]notification, error) {
	buf := make([]byte, 16<<10)
	k, err := unix.Read(fd, buf)
	if err != nil {
		return nil, err
	}
	var all []notification
	for buf = buf[:k]; len(buf) > 0; {
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[12:]))
		name, _, _ := strings.Cut(string(buf[unix.SizeofInotifyEvent:size]), "\x00")
		all = append(all, notification{int(binary.NativeEndian.Uint32(buf)), binary.NativeEndian.Uint32(buf[4:]), name})
		buf = buf[size:]
	}
	return all, nil
}

// hold opens a file and keeps it open.
func (w *worker) hold(a, b string, n int) string {
	f, err := regular(a, os.O_RDWR|n/10%2*os.O_APPEND, 0)
	if err != nil {
		return result(err)
	}
	slot := &w.slots[n%len(w.slots)]
	(*slot).Close() // an error for nil
	*slot = f
	return "ok"
}

func (w *worker) closeAll(a, b string, n int) string {
	for i, f := range w.slots {
		f.Close()
		w.slots[i] = nil
	}
	return "ok"
}

// use does something with a file that is kept open.
func (w *worker) use(a, b string, n int) string {
	f := w.slots[n%len(w.slots)]
	if f == nil {
		return "not open"
	}
	fd := int(f.Fd())
	var done string
	switch n / 10 % 10 {
	case 0, 1, 2:
		_, err := unix.Pwrite(fd, []byte("held"), int64(n%5000))
		done = result(err)
	case 3:
		_, err := unix.Write(fd, []byte("further"))
		done = result(err)
	case 4:
		done = result(unix.Ftruncate(fd, int64(n)))
	case 5:
		done = result(unix.Fchmod(fd, mode(n)))
	case 6:
		done = result(unix.Fchown(fd, -1, []int{0, 1000, 2000}[n%3]))
	case 7:
		done = result(unix.Fsetxattr(fd, "user.x", []byte("held"), 0))
	case 8:
		done = result(unix.Fsync(fd))
	}
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return done + result(err, attributes(&st), contentOf(f))
}

// lock locks a file that is kept open, or a part of it.
func (w *worker) lock(a, b string, n int) string {
	f := w.slots[n%len(w.slots)]
	if f == nil {
		return "not open"
	}
	if n/4%2 == 0 {
		return result(unix.Flock(int(f.Fd()), []int{unix.LOCK_EX, unix.LOCK_SH, unix.LOCK_UN}[n/8%3]|unix.LOCK_NB))
	}
	l := unix.Flock_t{Type: []int16{unix.F_WRLCK, unix.F_RDLCK, unix.F_UNLCK}[n/8%3], Start: int64(n / 24 % 4), Len: 2}
	if n/100%2 == 0 {
		return result(unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l))
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &l); err != nil {
		return result(err)
	}
	l.Type, l.Start, l.Len = unix.F_WRLCK, 0, 0
	return result(unix.FcntlFlock(f.Fd(), unix.F_GETLK, &l), l.Type, l.Start, l.Len)
}
