package fs

import (
	"fmt"
	"io"
	"log"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/internal/fusedev"
	"plash/union"
)

// Options say how a union is served. The zero value is for images.
type Options struct {
	// HostIDs: the mount was made outside our user namespace, so requests and
	// replies carry the ids of the namespace around it.
	HostIDs bool
	// UIDs and GIDs, if there are any, translate owners, and an owner in none
	// of them is shown as the overflow id. SquashUID and SquashGID are shown as
	// the owner of everything.
	UIDs, GIDs           []IDRange
	SquashUID, SquashGID *uint32
	// Timeout is how long the kernel may cache names and attributes; nil is for
	// ever.
	Timeout *time.Duration
	// WriteThrough: the kernel does not collect writes.
	WriteThrough bool
	// NoXattrs and NoACL: there are no extended attributes, or no ACLs.
	NoXattrs, NoACL bool
	// StaticNlink: all directories have one link.
	StaticNlink bool
	// Opens: the first files are opened by request, see openRequests.
	Opens bool
	// Debug prints all requests to standard error.
	Debug bool
	// Settled, unless nil, is closed when this process may stop all its
	// goroutines at once, as the garbage collector does.
	Settled <-chan struct{} `json:"-"`
}

// maxWrite is the largest read or write request: the kernel's limit is a MiB, and
// so is that of an ordinary user's pipe, in which there is a page of arguments,
// too (see fusedev.Pipe).
var maxWrite = 1<<20 - os.Getpagesize()

// MountData returns the option string for a mount(2) of type "fuse.plash" with
// the open /dev/fuse devFD, which must have been opened in the user namespace
// that mounts. Options: Documentation/filesystems/fuse.rst.
func MountData(devFD int) string {
	return fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,default_permissions,allow_other,max_read=%d",
		devFD, os.Geteuid(), os.Getegid(), maxWrite)
}

// Mount mounts the open /dev/fuse devFD at the directory target, with source shown as
// what is mounted; flags are those of mount(2), and data are further options for it.
// Whoever reads devFD is then the server.
func Mount(devFD int, source, target string, flags uintptr, data ...string) error {
	all := strings.Join(append([]string{MountData(devFD)}, data...), ",")
	if err := unix.Mount(source, target, "fuse.plash", flags, all); err != nil {
		return errs.Path(target, err)
	}
	raiseReadAhead(target)
	return nil
}

// raiseReadAhead lets the kernel read ahead as much as one request can carry,
// which only real root may do: a big file of 128 MiB that is not cached is read
// in 90 ms, with the usual 128 KiB in 140.
// See Documentation/ABI/testing/sysfs-class-bdi.
func raiseReadAhead(target string) {
	dev, err := Device(target)
	if err != nil {
		return
	}
	path := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(dev), unix.Minor(dev))
	if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
		fmt.Fprint(f, maxWrite>>10)
		f.Close()
	}
}

// Device returns the device number of the file system mounted at path. It sends no
// request, which would wait for a server that may not run yet.
func Device(path string) (uint64, error) {
	var st unix.Statx_t
	const quiet = unix.AT_STATX_DONT_SYNC | unix.AT_NO_AUTOMOUNT | unix.AT_SYMLINK_NOFOLLOW
	if err := unix.Statx(unix.AT_FDCWD, path, quiet, 0, &st); err != nil {
		return 0, errs.Path(path, err)
	}
	return unix.Mkdev(st.Dev_major, st.Dev_minor), nil
}

// GCPercent is how much garbage there may be beside what is in use; the usual 100
// lets memory double. To look at a million files takes 0.9 s of CPU more with it
// than with 25, of 20 s in all. A process that serves sets it itself
// (debug.SetGCPercent), as that stops all goroutines: a thread that waits for an
// answer from its own mount would wait for ever.
const GCPercent = 10

// LostWrite is what Serve returns if the upper layer refused data, mostly for
// want of space. The kernel collects writes, so programs learn of that when they
// close or sync the file, and not all of them listen.
type LostWrite struct{ Errno syscall.Errno }

func (e *LostWrite) Error() string { return "a write was lost: " + errs.Text(e.Errno) }

// Serve answers the requests that come from devFD, which it closes in the end,
// until the file system has been unmounted everywhere. The mount must be there
// already.
func Serve(devFD int, u *union.Union, o Options) error {
	f := &fileSystem{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), u: u, hasLow: u.HasLive(),
		collects: collectsWrites(u, o), relists: collectsWrites(u, o) && !u.HasLive(), timeout: forever, noXattrs: o.NoXattrs, noACL: o.NoACL, staticNlink: o.StaticNlink,
	}
	if o.Timeout != nil {
		f.timeout = *o.Timeout
	}
	if o.Opens && !u.ReadOnly() {
		f.opens.Store(openRequests)
	}
	var err error
	if f.ids, err = newIDMap(o); err != nil {
		return err
	}
	// The union sets modes itself; see union.Creation.
	unix.Umask(0)
	union.MakeRoom()
	f.device = fusedev.New(devFD, maxWrite, newServer(f, mountOptions(u, o)))
	u.CopiedUp = f.askAgain
	f.blocks = later{delay: blocksDelay, do: f.askBlocks}
	f.relist = later{delay: relistDelay, do: f.dropList}
	f.times.restore = later{delay: timesDelay, do: f.restoreLater}
	f.forget = later{delay: forgetDelay, do: func(id uint64) { f.device.InvalidateAttributes(id) }}
	u.Shrunk = func() {
		if o.Settled != nil {
			<-o.Settled
		}
		debug.FreeOSMemory() // by itself Go would keep it for minutes
	}
	err = f.device.Serve()
	f.restoreTimes()
	f.blocks.end()
	f.relist.end()
	f.forget.end()
	unix.Close(devFD)
	if err != nil {
		return err
	}
	if lost := f.lost.Load(); lost != 0 {
		return &LostWrite{syscall.Errno(lost)}
	}
	return nil
}

// Capabilities that go-fuse has no names for; linux/fuse.h.
const (
	capNoOpendir    = 1 << 24
	capHandleKillV2 = 1 << 28
)

// collectsWrites reports whether the kernel's writeback cache is on. With it each
// close makes the kernel forget a file's st_blocks, so the next stat is a
// request: it is not where nothing is written.
func collectsWrites(u *union.Union, o Options) bool { return !o.WriteThrough && !u.ReadOnly() }

func mountOptions(u *union.Union, o Options) *fuse.MountOptions {
	m := &fuse.MountOptions{
		Name:                 "plash",
		FsName:               "plash",
		MaxWrite:             maxWrite,
		MaxBackground:        64,
		EnableSymlinkCaching: !u.HasLive(),
		// With ACLs the kernel checks permissions by itself, by ids that a mount
		// made outside our namespace would not have.
		EnableAcl:            u.HasACLs() && !o.HostIDs && !o.NoACL,
		DisabledCapabilities: fuse.CAP_PASSTHROUGH, // it excludes no-open
		// READDIRPLUS only where the kernel sees names being looked up: listing
		// names alone is nine times faster without.
		ExtraCapabilities: capNoOpendir | fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_DONT_MASK | fuse.CAP_SETXATTR_EXT | capHandleKillV2,
		// Only we change what is mounted. (A live layer's changed file comes
		// back from LOOKUP as another node.)
		ExplicitDataCacheControl: true,
		Logger:                   log.New(io.Discard, "", 0),
	}
	if collectsWrites(u, o) {
		m.ExtraCapabilities |= fuse.CAP_WRITEBACK_CACHE
	}
	if o.Debug {
		m.Debug, m.Logger = true, log.New(os.Stderr, "plash: ", log.Lmicroseconds)
	}
	return m
}
