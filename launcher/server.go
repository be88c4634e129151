package launcher

import (
	"errors"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"plash/fs"
	"plash/internal/errs"
	"plash/internal/procs"
	"plash/internal/tree"
	"plash/union"
)

// server is the stage that serves a container's image, until the container's
// last process has ended. Before, one of its threads starts the container.
func server(d desk) {
	umask := unix.Umask(0)
	// While the thread executes the program nothing can stop all goroutines, as
	// a garbage collection or a change of GOMAXPROCS does: the kernel reads the
	// program's file then, by requests, and who answers them would be stopped.
	// So there is none until the program runs, and always another processor.
	resumeGC := pauseGC()
	runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0)))
	jobs, mounted := make(chan *job), make(chan mount)
	started, settled := make(chan struct{}), make(chan struct{})
	go onSpareThread(func() { (<-jobs).launch(umask, mounted, started) })
	j := d.job()
	jobs <- j
	go func() {
		<-started
		resumeGC()
		close(settled)
		j.leaveCaller()
		time.Sleep(time.Second)
		debug.SetGCPercent(fs.GCPercent)
	}()
	u, err := j.open()
	var m mount
	if err == nil {
		var ok bool
		if m, ok = <-mounted; !ok {
			os.Exit(0) // launch has failed and said why
		}
		unix.Close(j.Tell) // launch has its own
		if err = j.addTargets(u, m); err != nil {
			u.Close()
		}
	}
	code := 1
	if err != nil {
		tell(j.Warn, wordError, err.Error())
	} else {
		code = j.serve(u, m.dev, j.Warn, fs.Options{Settled: settled})
	}
	removeTemp(j)
	os.Exit(code)
}

// startGCPercent is for the first second: the heap may become 16 MB before it is
// collected, which most programs' starts do not need. Collecting it at one MB
// took one of the 23 ms of "run ID true".
const startGCPercent = 400

// pauseGC lets no garbage collection begin until resume is called, and few then.
func pauseGC() (resume func()) {
	debug.SetGCPercent(-1)
	limit := debug.SetMemoryLimit(math.MaxInt64)
	return func() {
		debug.SetMemoryLimit(limit)
		debug.SetGCPercent(startGCPercent)
	}
}

// A mount is what a thread with a mount namespace of its own has mounted.
type mount struct {
	dev     int      // the image
	empty   *os.File // the root of an empty file system in memory
	noEmpty error    // why there is none
}

// launch mounts the image where only this thread and the program see it, sends
// the mount to mounted, starts the program as the caller's child, and closes
// started. Then it keeps the mount until the caller has seen the program's end:
// taking a mount away takes time.
func (j *job) launch(umask int, mounted chan<- mount, started chan<- struct{}) {
	defer close(mounted)
	dev, err := openDevice()
	if err == nil {
		err = j.setUp(func() (string, error) { return j.Mountpoint, j.mountImage(dev, umask, mounted) })
	}
	if err != nil {
		tell(j.Tell, wordError, err.Error())
		return
	}
	pid := 0
	code := j.execute(func(file string, argv, env []string) (err error) {
		pid, err = syscall.ForkExec(file, argv, &syscall.ProcAttr{
			Env:   env,
			Files: []uintptr{0, 1, 2},
			Sys:   &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT, Setpgid: j.Group != 0, Pgid: j.Group},
		})
		return err
	})
	if pid == 0 {
		tell(j.Tell, wordCode, strconv.Itoa(code))
	} else {
		tell(j.Tell, wordContainer, strconv.Itoa(pid))
	}
	close(started)
	unix.Close(j.Tell)
	// What the caller was given is not kept open here.
	unix.Dup3(j.Life, 0, 0)
	unix.CloseRange(1, math.MaxUint32, 0)
	if !readByte(0) && pid != 0 {
		unix.Kill(pid, unix.SIGKILL) // the caller has been killed
	}
}

// mountImage mounts the image, for dev, and sends the mount to mounted.
func (j *job) mountImage(dev, umask int, mounted chan<- mount) error {
	m := mount{dev: dev}
	m.empty, m.noEmpty = mountEmpty(j.Mountpoint)
	// This thread gets a root, a working directory and a umask of its own, and
	// descriptors: it must not keep the device open. If the server is killed
	// while it waits for an answer from there, it would wait for ever.
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_FILES); err != nil {
		return err
	}
	unix.Umask(umask)
	flags := uintptr(0)
	if j.readOnly() {
		flags = unix.MS_RDONLY
	}
	if err := fs.Mount(dev, j.source(), j.Mountpoint, flags); err != nil {
		return err
	}
	unix.Close(dev)
	mounted <- m
	return nil
}

// leaveCaller makes the server independent of its caller, once that has its
// container.
func (j *job) leaveCaller() {
	j.standAlone(j.Warn)
	if j.Group != 0 {
		unix.Setpgid(0, j.Group) // who leads a group cannot begin a session
	}
	unix.Setsid()
}

// standAlone makes this process independent of who started it, but for its
// session. What it has to say goes to the descriptor stderr. Of the descriptors
// that it was given it keeps its own.
func (j *job) standAlone(stderr int) {
	if null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
		unix.Dup3(null, 0, 0)
		unix.Dup3(null, 1, 0)
		if stderr < 0 {
			stderr = null
		}
		unix.Dup3(stderr, 2, 0)
	}
	unix.Chdir("/")
	procs.CloseInherited(j.Tell, j.Warn, j.Lock, j.Life, j.Socket)
	// SIGXFSZ: too large a file is the program's error, not the server's end.
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGPIPE, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGXFSZ)
	procs.RaiseLimits()
	unix.Umask(0)
}

// serve serves the image on the device dev. It tells what happens to the
// descriptor to, and returns the exit code.
func (j *job) serve(u *union.Union, dev, to int, o fs.Options) int {
	err := fs.Serve(dev, u, o)
	if lost := (*fs.LostWrite)(nil); errors.As(err, &lost) && !j.Keep {
		err = nil // the program has heard of it, and nothing is made of the rest
	}
	if err != nil {
		tell(to, wordError, "file system server: "+errs.Text(err))
	} else {
		tell(to, wordEnd, "")
	}
	if closing := u.Close(); err != nil || closing != nil {
		return 1
	}
	return 0
}

// open opens the union of the job's layers and changes directory.
func (j *job) open() (*union.Union, error) {
	if j.Union != nil {
		return union.New(j.Union.Config)
	}
	c := union.Config{Lowers: j.Layers, Volatile: j.Volatile}
	if !j.readOnly() {
		c.Upper, c.Work = filepath.Join(j.Changes, "data"), filepath.Join(j.Changes, "work")
		if err := j.makeChanges(c.Upper, c.Work); err != nil {
			return nil, err
		}
	}
	return union.New(c)
}

// makeChanges makes what is missing in a changes directory. The root of a new
// layer has the mode and owner of the one below it.
func (j *job) makeChanges(upper, work string) error {
	if err := os.Mkdir(work, 0o700); err != nil && !os.IsExist(err) {
		return errs.Path(work, err)
	}
	if err := os.Mkdir(upper, 0o755); err != nil {
		if os.IsExist(err) {
			return nil
		}
		return errs.Path(upper, err)
	}
	var st unix.Stat_t
	if len(j.Layers) == 0 || unix.Stat(j.Layers[0].Path, &st) != nil {
		return nil
	}
	// An owner without a number here is shown as this one.
	const overflow = 65534
	if st.Uid != overflow && st.Gid != overflow {
		unix.Lchown(upper, int(st.Uid), int(st.Gid))
	}
	return errs.Path(upper, unix.Chmod(upper, st.Mode&0o7777))
}

// removeTemp removes a run's temporary directory, whose lock this process
// holds.
func removeTemp(j *job) {
	if j.Temp != "" {
		tree.Remove(j.Temp)
	}
}

// mountEmpty mounts an empty file system in memory on dir, opens it, and takes
// the mount away: it lives as long as it is open.
func mountEmpty(dir string) (*os.File, error) {
	if err := unix.Mount("plash", dir, "tmpfs", 0, "mode=755"); err != nil {
		return nil, hintMount("tmpfs", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	root, err := os.Open(dir)
	return root, errs.Path(dir, err)
}

// onSpareThread calls f on a thread that ends afterwards, and so cannot be the
// process's first one.
func onSpareThread(f func()) {
	// Never unlocked: that ends the thread with the goroutine.
	runtime.LockOSThread()
	if unix.Gettid() != os.Getpid() {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		onSpareThread(f)
	}()
	<-done
	runtime.UnlockOSThread()
}
