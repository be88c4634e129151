package launcher

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/internal/passwd"
	"plash/internal/procs"
	"plash/internal/rawjson"
	"plash/union"
)

// A stage is what this program is when it was executed by itself. Its name
// stands in argv[0], which ps shows.
type stage string

const (
	stageContainer stage = "plash: container"
	stageServer    stage = "plash: file system server"
	stageMount     stage = "plash: mount"
	stageReenter   stage = "plash: user namespace"
	stageRemove    stage = "plash: remove"
	stageProbe     stage = "plash: probe"
)

// Init must be the first statement of main. In a process that is one of the
// package's stages it does that stage's work and does not return.
func Init() {
	if len(os.Args) < 2 || !strings.HasPrefix(os.Args[0], "plash: ") {
		return
	}
	fd, err := strconv.Atoi(os.Args[1])
	if err != nil {
		return
	}
	switch d := desk(fd); stage(os.Args[0]) {
	case stageContainer:
		container(d.job())
	case stageServer:
		server(d)
	case stageMount:
		mountServer(d.job())
	case stageReenter:
		reentered(d.job())
	case stageRemove:
		remover(d.job())
	case stageProbe:
		probeInside(d.job())
	}
	os.Exit(1)
}

// A job is what the stages are told: the part of Config that they need, with
// everything that depends on the caller's surroundings worked out. It comes
// through a pipe. Descriptors have the same numbers in all processes, so that
// those of the caller keep theirs; -1 is none.
type job struct {
	Tell int // the word of who starts the container, or of a mount's server, to the caller
	Warn int // the server's
	Life int // a byte is read here when the container has ended, or nothing if the caller has been killed
	Lock int // the lock on Temp

	Parent  int  // the caller's process id
	Group   int  // the caller's process group; 0: it is another namespace's
	Mapped  bool // there is a user namespace of its own, for this run
	NoMount bool // no mount namespace: PLASH_NO_UNSHARE

	Layers     []union.Layer
	Dir        string
	Changes    string
	Volatile   bool
	Temp       string // to be removed at the end
	Keep       bool   // the changes will become a layer
	Mountpoint string
	Union      *UnionMount // instead of an image
	View       View
	Binds      []bind

	Rules   envRules
	Args    []string // empty: a login shell
	Shell   string   // the caller's login shell
	Home    string   // and home
	Cwd     string
	Workdir string
	Socket  int // the mount server gets its FUSE descriptor here
}

// job works out what the stages have to know.
func (c *Config) job(id identity) (*job, error) {
	j := &job{
		Tell: -1, Warn: -1, Life: -1, Lock: -1, Socket: -1,
		Parent:  os.Getpid(),
		Group:   unix.Getpgrp(),
		Mapped:  id.mapped(),
		NoMount: id.bare,
		Layers:  slices.Clone(c.Layers),
		View:    c.View,
		Workdir: c.Workdir,
		Shell:   "/bin/sh",
	}
	paths := []struct {
		to   *string
		from string
	}{{&j.Dir, c.Dir}, {&j.Changes, c.Changes}, {&j.Mountpoint, c.Mountpoint}}
	for i := range j.Layers {
		if j.Layers[i].Beside {
			continue
		}
		paths = append(paths, struct {
			to   *string
			from string
		}{&j.Layers[i].Path, c.Layers[i].Path})
	}
	if c.Temp != nil {
		j.Lock = int(c.Temp.File().Fd())
		j.Volatile = true
		j.Keep = c.Keep
		if !c.Keep {
			paths = append(paths, struct {
				to   *string
				from string
			}{&j.Temp, c.Temp.Path})
		}
	}
	for _, p := range paths {
		if p.from == "" {
			continue
		}
		path, err := filepath.Abs(p.from)
		if err != nil {
			return nil, errs.Path(p.from, err)
		}
		*p.to = path
	}
	for _, dir := range []string{j.Dir, j.Changes} {
		if dir == "" {
			continue
		}
		if info, err := os.Stat(dir); err != nil {
			return nil, errs.Path(dir, err)
		} else if !info.IsDir() {
			return nil, errs.Path(dir, unix.ENOTDIR)
		}
	}
	if c.View == Container && j.Dir == "" && !c.merged() {
		return nil, fmt.Errorf("launcher: nothing to run in")
	}

	j.Args = c.Command
	if len(j.Args) == 0 {
		j.Args = slices.Concat(c.Entrypoint, c.DefaultArgs)
	}
	if user, ok := passwd.ByUID("/etc/passwd", os.Getuid()); ok {
		j.Home = user.Home
		if user.Shell != "" {
			j.Shell = user.Shell
		}
	}
	// A working directory that cannot be named is not there inside either.
	j.Cwd, _ = os.Getwd()
	if c.View == Container {
		var err error
		if j.Binds, err = c.binds(); err != nil {
			return nil, err
		}
		j.Rules = envRules{Set: c.Env, Names: c.EnvNames, Prefixes: c.EnvPrefixes, Build: c.Build}
		if c.DataDir != "" {
			j.Rules.DataDir = seenInside(c.DataDir, j.Binds)
		}
	}
	return j, nil
}

// readOnly reports whether the image cannot be written.
func (j *job) readOnly() bool {
	if j.Union != nil {
		return j.Union.Config.Upper == "" || j.Union.Flags&unix.MS_RDONLY != 0
	}
	return j.Changes == ""
}

// start executes this program as stage s, in a new user namespace if id wants
// one, and gives it j once its ids are mapped. Of this process's descriptors
// only those in pass are inherited, besides those that the caller was given
// itself. It returns the new process's id. It calls meanwhile, if that is not
// nil, while the process starts.
func (j *job) start(s stage, id identity, c *Config, attr *syscall.SysProcAttr, meanwhile func(), pass ...int) (int, error) {
	way, err := newPipe()
	if err != nil {
		return 0, err
	}
	defer way.close()
	if id.mapped() {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		// The program is executed before the ids are mapped, as a user without
		// a name and so without capabilities, unless they are ambient ones. It
		// must have all, or the kernel thinks that the next program has more.
		for n := range procs.LastCapability() + 1 {
			attr.AmbientCaps = append(attr.AmbientCaps, n)
		}
	}
	proc := &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: attr}
	if c.stdin != nil {
		proc.Files[0] = c.stdin.Fd()
	}
	if c.stdout != nil {
		proc.Files[1] = c.stdout.Fd()
	}
	pid, err := execSelf([]string{string(s), strconv.Itoa(way.r)}, proc, append(pass, way.r)...)
	if err != nil {
		if id.mapped() {
			return 0, hintUserNamespace(err)
		}
		return 0, fmt.Errorf("new process: %s", errs.Text(err))
	}
	way.closeRead()
	if meanwhile != nil {
		meanwhile()
	}
	text, err := rawjson.Marshal(j)
	if err == nil {
		err = id.mapIDs(pid, c)
	}
	for err == nil && len(text) > 0 {
		var n int
		n, err = unix.Write(way.w, text)
		text = text[max(n, 0):]
	}
	if err != nil {
		// It ends because it gets no job.
		way.close()
		unix.Wait4(pid, nil, 0, nil)
		return 0, err
	}
	return pid, nil
}

// execSelf starts this program; pass are the descriptors that it inherits at
// their own numbers.
func execSelf(argv []string, attr *syscall.ProcAttr, pass ...int) (int, error) {
	for _, fd := range pass {
		if fd >= 0 {
			procs.Inherit(fd, true)
			defer procs.Inherit(fd, false)
		}
	}
	return syscall.ForkExec("/proc/self/exe", argv, attr)
}

// A desk is the descriptor where a stage gets its job.
type desk int

// job waits for the job, which comes when the ids are mapped, and keeps the
// job's descriptors from what is executed later.
func (d desk) job() *job {
	file := os.NewFile(uintptr(d), "job")
	text, err := io.ReadAll(file)
	file.Close()
	j := &job{}
	if err != nil || rawjson.Unmarshal(text, j) != nil {
		os.Exit(1) // the caller has failed
	}
	for _, fd := range []int{j.Tell, j.Warn, j.Life, j.Lock, j.Socket} {
		if fd >= 0 {
			procs.Inherit(fd, false)
		}
	}
	return j
}

// readByte reports whether a byte came, and not the end.
func readByte(fd int) bool {
	var b [1]byte
	for {
		n, err := unix.Read(fd, b[:])
		if err != unix.EINTR {
			return n == 1
		}
	}
}

// A pipe has two raw descriptors, closed on exec.
type pipe struct{ r, w int }

func newPipe() (pipe, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return pipe{-1, -1}, fmt.Errorf("pipe: %s", errs.Text(err))
	}
	return pipe{fds[0], fds[1]}, nil
}

// close closes both ends, those only that are open.
func (p *pipe) close() {
	p.closeRead()
	p.closeWrite()
}

func (p *pipe) closeRead() {
	if p.r >= 0 {
		unix.Close(p.r)
	}
	p.r = -1
}

func (p *pipe) closeWrite() {
	if p.w >= 0 {
		unix.Close(p.w)
	}
	p.w = -1
}

// What a stage says to the caller is a line: one of these bytes and a text.
const (
	wordError     = 'E' // it failed; why
	wordNote      = 'V' // for Verbose
	wordContainer = 'C' // its process id
	wordCode      = 'X' // there is none; the exit code
	wordReady     = 'R' // the layers are open
	wordMount     = 'M' // the mount is there
	wordEnd       = 'K' // the mount is gone, as it should
)

// tell writes one line to fd. Nobody may be listening any more.
func tell(fd int, word byte, text string) {
	text = strings.ReplaceAll(text, "\n", " ")
	unix.Write(fd, []byte(string(word)+text+"\n"))
}
