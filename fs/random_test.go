package fs_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"plash/internal/usertest"
)

var (
	seed  = flag.Uint64("seed", 1, "of the random operations; 0: another one each time")
	steps = flag.Int("steps", 4000, "number of random operations")
)

// perRun is how many operations are done on one set of layers.
const perRun = 2000

// TestRandomLikeTheKernel lets several processes do random operations on
// kernel overlayfs and on ours, one after the other and at the same time, and
// compares each outcome, what is then found at the paths that were named, and
// now and then the whole tree: as it is, after a remount, as the kernel sees
// our upper and as we see the kernel's. A difference is made as short as can be
// before it is shown.
//
// The differences that are wanted, and so are left out here, are listed in
// docs/union.md. They are: renames that the kernel refuses with EXDEV, hard
// links in lower layers, files that are open for reading at their copy-up, and
// whiteouts of lower directories that do not merge.
func TestRandomLikeTheKernel(t *testing.T) {
	if os.Geteuid() != 0 || os.Getenv("PLASH_TEST_USER") == "one id" {
		t.Skip("the processes are those of several users")
	}
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	for done := 0; done < *steps; done += perRun {
		ops := randomOps(s, min(perRun, *steps-done))
		at, difference := play(t, s, ops, io.Discard)
		if difference != "" {
			ops = shrink(t, s, ops[:at+1])
			var log strings.Builder
			_, difference = play(t, s, ops, &log)
			t.Fatalf("go test ./fs -run RandomLike -seed %d -steps %d\n%s%s", s, perRun, &log, difference)
		}
		if t.Failed() {
			t.Fatalf("go test ./fs -run RandomLike -seed %d -steps %d", s, perRun)
		}
		s++
	}
}

// TestRandomAsUser does the same as an ordinary user in a user namespace, by
// processes of his subordinate ids.
func TestRandomAsUser(t *testing.T) {
	usertest.Rerun(t, "-test.run=RandomLikeTheKernel", "-test.timeout=0", fmt.Sprint("-seed=", *seed), fmt.Sprint("-steps=", *steps))
}

// shrink leaves operations out as long as there is still a difference.
func shrink(t *testing.T, seed uint64, ops []op) []op {
	end := time.Now().Add(3 * time.Minute)
	for size := len(ops) / 2; size > 0; {
		shorter := false
		for i := 0; i+size <= len(ops) && time.Now().Before(end); {
			without := slices.Concat(ops[:i], ops[i+size:])
			if at, difference := play(t, seed, without, io.Discard); difference != "" {
				ops, shorter = without[:at+1], true
				continue
			}
			i += size
		}
		if !shorter || size > len(ops) {
			size /= 2
		}
	}
	return ops
}

// A side is one of the two file systems, and the processes that use it.
type side struct {
	*stack
	kernel  bool
	mounted bool
	opts    string // the kernel's mount options that suit the layers
	procs   []*proc
}

// A proc is a process that does operations.
type proc struct {
	cmd *exec.Cmd
	in  *json.Encoder
	out *json.Decoder
}

const workerEnv = "PLASH_FS_TEST_WORKER"

// A task is what a worker process is told when it starts.
type task struct {
	Mnt, Prefix string
	UID, GID    int
}

// users are who the processes are. The first one also looks at the outcome.
var users = []struct{ uid, gid int }{{0, 0}, {1000, 1000}, {1001, 1001}, {0, 0}}

// newSide makes the layers of a seed and mounts them. The seed also says how:
// with directory redirects or without, with writeback or without, whether OPEN
// is answered, and whether the layers have indexes.
func newSide(t *testing.T, seed uint64, kernel bool) *side {
	t.Helper()
	s := &side{stack: newStack(t, 3), kernel: kernel, opts: "userxattr"}
	redirect := seed%2 == 0 && !usertest.Active()
	if redirect {
		s.opts, s.prefix = "redirect_dir=on", "trusted.overlay."
	}
	s.letUsersIn()
	s.randomLayers(seed)
	s.indexed = seed%5 > 1
	s.change = func(c *serveConfig) {
		c.Redirect = redirect
		c.Serve.WriteThrough = seed%4 > 1
		c.Serve.Opens = seed%3 == 0
	}
	s.mountSide()
	for _, user := range users {
		s.procs = append(s.procs, s.startWorker(task{Mnt: s.mnt, Prefix: s.prefix, UID: user.uid, GID: user.gid}))
	}
	return s
}

func (s *side) mountSide() {
	s.t.Helper()
	s.mounted = true
	if s.kernel {
		s.kernelMountWith(s.opts, s.upper, filepath.Join(s.base, "work"), s.mnt)
	} else {
		s.mount()
	}
}

func (s *side) unmountSide() {
	s.t.Helper()
	if !s.mounted {
		return
	}
	s.mounted = false
	if !s.kernel {
		s.unmount()
	} else if err := unix.Unmount(s.mnt, 0); err != nil {
		s.t.Errorf("unmount %s: %v", s.mnt, err)
		unix.Unmount(s.mnt, unix.MNT_DETACH)
	}
}

func (s *side) startWorker(w task) *proc {
	s.t.Helper()
	text, err := json.Marshal(w)
	if err != nil {
		s.t.Fatal(err)
	}
	p := &proc{cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), workerEnv+"="+string(text))
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { p.cmd.Process.Kill() })
	p.in, p.out = json.NewEncoder(in), json.NewDecoder(out)
	return p
}

// end ends the side's processes and its mount, and removes its layers.
func (s *side) end() {
	for _, p := range s.procs {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	}
	s.unmountSide()
	os.RemoveAll(s.base)
}

// do lets the processes do the operations, each its own in their order and all
// processes at once, and returns the results. One that skip has is left out.
func (s *side) do(ops []op, skip []bool) []string {
	results := make([]string, len(ops))
	var wg sync.WaitGroup
	for n, p := range s.procs {
		wg.Go(func() {
			for i, o := range ops {
				if o.Proc == n && !skip[i] {
					results[i] = p.do(o)
				}
			}
		})
	}
	wg.Wait()
	return results
}

func (p *proc) do(o op) string {
	if err := p.in.Encode(o); err != nil {
		return "worker: " + err.Error()
	}
	var result string
	if err := p.out.Decode(&result); err != nil {
		return "worker: " + err.Error()
	}
	return result
}

// play builds the layers of seed and does ops on both sides. It returns the
// first difference and the number of the operation that showed it. To log it
// writes what the kernel's side answered.
func play(t *testing.T, seed uint64, ops []op, log io.Writer) (at int, difference string) {
	t.Helper()
	kernel := newSide(t, seed, true)
	defer kernel.end()
	ours := newSide(t, seed, false)
	defer ours.end()
	for i := 0; i < len(ops); {
		end := i + 1
		for ops[i].Par && end < len(ops) && ops[end].Par {
			end++
		}
		if at, difference := playBoth(kernel, ours, ops[i:end], log); difference != "" {
			return i + at, difference
		}
		i = end
	}
	return len(ops) - 1, compareSides(kernel, ours)
}

// playBoth does operations on both sides, at the same time if there are
// several.
func playBoth(kernel, ours *side, ops []op, log io.Writer) (at int, difference string) {
	if ops[0].Kind == "remount" {
		return 0, compareSides(kernel, ours)
	}
	skip := make([]bool, len(ops))
	want := kernel.do(ops, skip)
	for i := range ops {
		skip[i] = want[i] == unix.EXDEV.Error()
	}
	got := ours.do(ops, skip)
	for i, o := range ops {
		fmt.Fprintf(log, "%v: %s\n", o, want[i])
		if !skip[i] && want[i] != got[i] {
			return i, fmt.Sprintf("kernel %s\nours   %s", want[i], got[i])
		}
		if strings.HasPrefix(o.Kind, "rename") && want[i] == unix.ENOTEMPTY.Error() {
			// ext4 has put the kernel's whiteout in place and taken it back.
			o.Kind = "touchdir"
			kernel.procs[0].do(o)
			ours.procs[0].do(o)
		}
		if !o.Look {
			continue
		}
		o.Kind = "look"
		if k, o := kernel.procs[0].do(o), ours.procs[0].do(o); k != o {
			return i, fmt.Sprintf("then there is\nkernel %s\nours   %s", k, o)
		}
	}
	return 0, ""
}

// compareSides compares the trees in every view, and leaves both sides mounted
// anew.
func compareSides(kernel, ours *side) string {
	t := ours.t
	t.Helper()
	want := kernel.tree()
	if d := firstDifference("the tree", want, ours.tree()); d != "" {
		return d
	}
	for _, s := range []*side{kernel, ours} {
		for _, p := range s.procs {
			p.do(op{Kind: "close"})
		}
		s.unmountSide()
	}
	for _, s := range []*side{kernel, ours} {
		s.kernel = !s.kernel
		s.mountSide()
		got := s.tree()
		s.unmountSide()
		s.kernel = !s.kernel
		what := "the kernel's view of our upper"
		if s == kernel {
			what = "our view of the kernel's upper"
		}
		if d := firstDifference(what, want, got); d != "" {
			return d
		}
	}
	kernel.mountSide()
	ours.mountSide()
	return firstDifference("the tree after a remount", want, ours.tree())
}

// tree is dump, of a kernel mount without what it takes for attributes of users.
func (s *side) tree() []string {
	if s.prefix == "user.overlay." {
		return dump(s.t, s.mnt)
	}
	return strip(dump(s.t, s.mnt))
}

func firstDifference(what string, want, got []string) string {
	for i := range max(len(want), len(got)) {
		var k, o string
		if i < len(want) {
			k = want[i]
		}
		if i < len(got) {
			o = got[i]
		}
		if k != o {
			return fmt.Sprintf("%s differs\nkernel %s\nours   %s", what, k, o)
		}
	}
	return ""
}

// subtree is the directory that a process has for itself.
func subtree(proc int) string { return fmt.Sprint("p", proc) }

// randomLayers fills lower directories. The subtrees of the processes are in
// all of them.
func (s *stack) randomLayers(seed uint64) {
	s.t.Helper()
	r := rand.New(rand.NewPCG(seed, 2))
	for i, lower := range s.lowers {
		if i+1 < len(s.lowers) && kernelAtLeast(6, 7) {
			s.mark(lower, "opaque", "x") // whiteouts may be written as files
		}
		s.randomTree(r, lower, 3, i+1 < len(s.lowers))
		for n, user := range users {
			dir := filepath.Join(lower, subtree(n))
			mkdirs(s.t, dir)
			s.randomTree(r, dir, 2, i+1 < len(s.lowers))
			if err := os.Chown(dir, user.uid, 2000); err != nil {
				s.t.Fatal(err)
			}
			if err := unix.Chmod(dir, []uint32{0o755, 0o2775, 0o1777, 0o777}[n]); err != nil {
				s.t.Fatal(err)
			}
		}
		setTimes(s.t, lower)
	}
}

// randomTree fills a directory. Whiteouts are only put where the kernel hides
// them: it lists them in directories that do not merge.
func (s *stack) randomTree(r *rand.Rand, dir string, depth int, whiteouts bool) {
	s.t.Helper()
	for _, name := range pool {
		path := filepath.Join(dir, name)
		var err error
		switch n := r.IntN(13); {
		case n < 3 && depth > 0:
			err = os.Mkdir(path, 0o755)
			if err == nil && r.IntN(4) == 0 {
				s.mark(path, "opaque", "y")
			}
			s.randomTree(r, path, depth-1, false)
		case n < 6:
			err = os.WriteFile(path, []byte(strings.Repeat(name, r.IntN(9000))), []os.FileMode{0o644, 0o600, 0o666, 0o755}[r.IntN(4)])
		case n == 6:
			err = os.Symlink(targets[r.IntN(len(targets))], path)
			if err == nil {
				continue // no mode, no owner
			}
		case n == 7:
			err = unix.Mkfifo(path, 0o600)
		case n == 8 && whiteouts:
			err = unix.Mknod(path, unix.S_IFCHR, 0)
			if err == nil {
				continue
			}
		case n == 9 && whiteouts && kernelAtLeast(6, 7):
			s.mark(dir, "opaque", "x")
			if err = os.WriteFile(path, nil, 0o600); err == nil {
				s.mark(path, "whiteout", "y")
				continue
			}
		default:
			continue
		}
		if err != nil {
			s.t.Fatal(err)
		}
		if n := r.IntN(6); n < 2 {
			os.Chown(path, 1000+n, 1000+n)
		} else if n == 2 {
			os.Chmod(path, os.ModeSetuid|os.ModeSetgid|0o775)
		}
		switch r.IntN(12) {
		case 0:
			unix.Setxattr(path, "security.capability", fileCaps(), 0)
		case 1:
			unix.Setxattr(path, "system.posix_acl_access", aclOf(uint16(r.IntN(8)), uint16(r.IntN(8))), 0)
		case 2:
			unix.Setxattr(path, "system.posix_acl_default", aclOf(uint16(r.IntN(8)), uint16(r.IntN(8))), 0)
		}
		if r.IntN(4) == 0 && unix.Setxattr(path, "trusted.x", []byte(name), 0) == nil {
			unix.Setxattr(path, "user.x", []byte(name), 0)
		}
	}
}

// mark sets an attribute of overlayfs.
func (s *stack) mark(path, name, value string) {
	s.t.Helper()
	if err := unix.Setxattr(path, s.prefix+name, []byte(value), 0); err != nil {
		s.t.Fatal(err)
	}
}
