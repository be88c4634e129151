package fs

import (
	"bytes"
	"fmt"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"plash/internal/fusedev"
	"plash/union"
)

// A server answers requests. It decodes the frequent ones itself, which
// allocates nothing but names, and leaves the others to go-fuse (whose
// ProtocolServer takes 1 kB and 2 µs for each).
type server struct {
	fs    *fileSystem
	proto *fuse.ProtocolServer
	// begun is set with the first request, INIT. The next one may be another
	// thread's; the kernel sends it after the reply, which Go cannot know.
	begun atomic.Bool
	plain bool // leave all to go-fuse, which can print them
}

func newServer(f *fileSystem, o *fuse.MountOptions) *server {
	return &server{fs: f, proto: fuse.NewProtocolServer(f, o), plain: o.Debug}
}

// Operations, those of enum fuse_opcode in linux/fuse.h that are named here.
const (
	opLookup        = 1
	opForget        = 2
	opGetattr       = 3
	opSetattr       = 4
	opReadlink      = 5
	opMknod         = 8
	opMkdir         = 9
	opUnlink        = 10
	opRmdir         = 11
	opRead          = 15
	opWrite         = 16
	opFsync         = 20
	opSetxattr      = 21
	opGetxattr      = 22
	opInit          = 26
	opReaddir       = 28
	opFsyncdir      = 30
	opCreate        = 35
	opInterrupt     = 36
	opIoctl         = 39
	opBatchForget   = 42
	opFallocate     = 43
	opReaddirplus   = 44
	opRename2       = 45
	opLseek         = 46
	opCopyFileRange = 47
)

// manyBytes is from how many bytes on a read is one of those that the kernel
// sends ahead: the next one comes soon.
const manyBytes = 64 << 10

// MayTakeLong is true for what waits for a disk, and for LSEEK and the setting of a
// capability, which wait for other requests.
func (s *server) MayTakeLong(in []byte, slow bool) bool {
	h := fusedev.At[fuse.InHeader](in)
	if h == nil {
		return false
	}
	switch h.Opcode {
	case opFsync, opFsyncdir, opFallocate, opLseek, opCopyFileRange:
		return true
	case opSetxattr:
		return bytes.Contains(in, []byte(union.Capability))
	case opRead:
		r := fusedev.At[fuse.ReadIn](in)
		return slow && r != nil && r.Size >= manyBytes
	}
	return false
}

// Handle answers one request.
func (s *server) Handle(in []byte, rest *fusedev.Pipe, out []byte) (n int) {
	h := fusedev.At[fuse.InHeader](in)
	if h == nil {
		return 0
	}
	defer func() {
		// A mistake of ours must not end the file system of a running program.
		if r := recover(); r != nil {
			fmt.Fprintf(os.Stderr, "plash: request %d of the kernel: %v\n%s", h.Opcode, r, debug.Stack())
			n = reply(h, out, 0, fuse.EIO)
		}
	}()
	if rest != nil && (s.plain || h.Opcode != opWrite) {
		in, rest = rest.Append(in), nil
	}
	if s.plain {
		return s.leave(in, out)
	}
	r := request{fs: s.fs, h: h, in: in, rest: rest, out: out[replyHeader:]}
	status, known := r.answer()
	switch {
	case !known:
		return s.leave(in, out)
	case r.size == noReply:
		return 0
	}
	return reply(h, out, r.size, status)
}

// leave lets go-fuse answer.
func (s *server) leave(in, out []byte) int {
	s.begun.Load()
	defer s.begun.Store(true)
	n, _ := s.proto.HandleRequest([][]byte{in}, [][]byte{out})
	if i := fusedev.At[fuse.InitIn](in); i != nil && i.Opcode == opInit {
		s.fs.minor = i.Minor
		// go-fuse grants what the kernel begins with, 128 KiB, and so undoes
		// what raiseReadAhead may have done by then.
		if o := fusedev.At[fuse.InitOut](out[replyHeader:]); n == replyHeader+fusedev.Size[fuse.InitOut]() {
			o.MaxReadAhead = uint32(maxWrite)
		}
	}
	return n
}

var replyHeader = fusedev.Size[fuse.OutHeader]()

// reply puts the header before size bytes of an answer.
func reply(h *fuse.InHeader, out []byte, size int, status fuse.Status) int {
	if status != fuse.OK {
		size = 0
	}
	*fusedev.At[fuse.OutHeader](out) = fuse.OutHeader{
		Length: uint32(replyHeader + size), Status: -int32(status), Unique: h.Unique,
	}
	return replyHeader + size
}

// A request is one that is decoded here.
type request struct {
	fs   *fileSystem
	h    *fuse.InHeader
	in   []byte
	rest *fusedev.Pipe // what follows in, unless nil
	out  []byte        // behind the header
	size int           // of the answer in out
}

// noReply is the size of an answer that the kernel does not wait for.
const noReply = -1

// answer answers the request if it is one of the frequent ones.
func (r *request) answer() (status fuse.Status, known bool) {
	f, h := r.fs, r.h
	switch h.Opcode {
	case opLookup:
		status = f.Lookup(nil, h, r.afterHeader().name(), result[fuse.EntryOut](r))
	case opForget:
		f.Forget(h.NodeId, args[fuse.ForgetIn](r).Nlookup)
		r.size = noReply
	case opBatchForget:
		r.batchForget()
	case opGetattr:
		status = f.GetAttr(nil, args[fuse.GetAttrIn](r), result[fuse.AttrOut](r))
	case opSetattr:
		status = f.SetAttr(nil, args[fuse.SetAttrIn](r), result[fuse.AttrOut](r))
	case opReadlink:
		var target []byte
		target, status = f.Readlink(nil, h)
		r.size = copy(r.out, target)
	case opMknod:
		status = f.Mknod(nil, args[fuse.MknodIn](r), r.name(), result[fuse.EntryOut](r))
	case opMkdir:
		status = f.Mkdir(nil, args[fuse.MkdirIn](r), r.name(), result[fuse.EntryOut](r))
	case opUnlink:
		status = f.Unlink(nil, h, r.afterHeader().name())
	case opRmdir:
		status = f.Rmdir(nil, h, r.afterHeader().name())
	case opRead:
		status = r.read(args[fuse.ReadIn](r))
	case opWrite:
		status = r.write(args[fuse.WriteIn](r))
	case opGetxattr:
		status = r.getxattr(args[fuse.GetXAttrIn](r))
	case opReaddir:
		in := args[fuse.ReadIn](r)
		list := fuse.NewDirEntryList(r.out[:in.Size], in.Offset)
		status = f.ReadDir(nil, in, list)
		r.size = len(list.Bytes())
	case opReaddirplus:
		in := args[fuse.ReadIn](r)
		list := fuse.NewDirEntryList(r.out[:in.Size], in.Offset)
		status = f.ReadDirPlus(nil, in, list)
		r.size = len(list.Bytes())
	case opCreate:
		status = f.Create(nil, args[fuse.CreateIn](r), r.name(), result[fuse.CreateOut](r))
	case opRename2:
		in := args[fuse.RenameIn](r)
		oldName := r.name()
		status = f.Rename(nil, in, oldName, r.name())
	case opIoctl: // no file flags and so on; Python asks each file whether it is a terminal
		status = fuse.Status(unix.ENOTTY)
	case opInterrupt: // nothing here waits for long: the kernel need not ask again
		status = fuse.ENOSYS
	default:
		return fuse.OK, false
	}
	return status, true
}

// args returns the arguments that the request begins with, its header among
// them; r.in is then what follows.
func args[T any](r *request) *T {
	a := fusedev.At[T](r.in)
	r.in = r.in[fusedev.Size[T]():]
	return a
}

// afterHeader skips the header of a request that has no other arguments.
func (r *request) afterHeader() *request {
	args[fuse.InHeader](r)
	return r
}

// name returns the name that r.in begins with, and leaves what follows.
func (r *request) name() string {
	name, rest, _ := bytes.Cut(r.in, []byte{0})
	r.in = rest
	return string(name)
}

// result makes the answer a T, which is zero.
func result[T any](r *request) *T {
	r.size = fusedev.Size[T]()
	clear(r.out[:r.size])
	return fusedev.At[T](r.out)
}

func (r *request) batchForget() {
	type batch struct { // struct fuse_batch_forget_in
		fuse.InHeader
		Count, _ uint32
	}
	type one struct{ NodeID, Count uint64 } // struct fuse_forget_one
	for n := args[batch](r).Count; n > 0; n-- {
		o := args[one](r)
		r.fs.Forget(o.NodeID, o.Count)
	}
	r.size = noReply
}

// slowRead is a time, to which a nanosecond is added for each byte, that only a
// read from a disk takes.
const slowRead = 100 * time.Microsecond

// read reads into the answer, without a copy between.
func (r *request) read(in *fuse.ReadIn) fuse.Status {
	node := r.fs.node(in.NodeId)
	start := time.Now()
	n, err := r.fs.u.Read(node, r.out[:in.Size], int64(in.Offset))
	r.size = n
	if in.Offset == 0 {
		r.fs.looksAt(node)
		r.fs.u.ReadAhead(node, time.Since(start) > slowRead+time.Duration(n))
	}
	return status(err)
}

func (r *request) write(in *fuse.WriteIn) (status fuse.Status) {
	out := result[fuse.WriteOut](r)
	if r.rest == nil {
		out.Size, status = r.fs.Write(nil, in, r.in[:in.Size])
		return status
	}
	out.Size = in.Size
	return r.fs.write(in, func(n *union.Node) error {
		return r.fs.u.WriteBy(n, in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0, func(fd int) error {
			return r.rest.WriteTo(fd, int64(in.Offset))
		})
	})
}

// getxattr answers with the attribute, or if the request has no room for one
// with its size.
func (r *request) getxattr(in *fuse.GetXAttrIn) fuse.Status {
	name := r.name()
	if in.Size == 0 {
		n, s := r.fs.GetXAttr(nil, &in.InHeader, name, nil)
		result[fuse.GetXAttrOut](r).Size = n
		return s
	}
	n, s := r.fs.GetXAttr(nil, &in.InHeader, name, r.out[:in.Size])
	r.size = int(n)
	return s
}
