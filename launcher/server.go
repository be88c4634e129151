package launcher

import (
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"plash/fs"
	"plash/internal/errs"
	"plash/internal/procs"
	"plash/internal/tree"
	"plash/union"
)

// server is the stage that serves a container's image, until the container's
// last process has ended.
func server(j *job) {
	dev, _ := strconv.Atoi(os.Args[2])
	mounted, _ := strconv.Atoi(os.Args[3])
	j.standAlone(dev, mounted)
	code := j.serve(j.Warn, fs.Options{}, func() (int, bool) {
		return dev, readByte(mounted)
	})
	removeTemp(j)
	os.Exit(code)
}

// standAlone makes this process independent of who started it; keep are its
// own descriptors. It has its own session and "/" as directory already.
func (j *job) standAlone(keep ...int) {
	procs.CloseInherited(append(keep, j.Self, j.Tell, j.Warn, j.Lock, j.Socket)...)
	// SIGXFSZ: too large a file is the program's error, not the server's end.
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGPIPE, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGXFSZ)
	procs.RaiseLimits()
	unix.Umask(0)
}

// serve opens the image and serves it on the device that get returns, if it
// returns one. It tells what happens to the descriptor to, and returns the
// exit code.
func (j *job) serve(to int, o fs.Options, get func() (int, bool)) int {
	u, err := j.open()
	if err != nil {
		tell(to, wordError, err.Error())
		return 1
	}
	dev, ok := get()
	if !ok {
		u.Close()
		return 0 // who should have mounted it has failed and said why
	}
	err = fs.Serve(dev, u, o)
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
	u, err := union.New(c)
	if err != nil || j.View != Container {
		return u, err
	}
	missing := missingTargets(u, j.Binds)
	if len(missing) == 0 {
		return u, nil
	}
	layer, err := targetLayer(u, missing)
	if err == nil {
		defer layer.Close()
		err = u.Cover(union.Layer{Path: procFD(int(layer.Fd()))})
	}
	if err != nil {
		u.Close()
		return nil, err
	}
	return u, nil
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

// emptyTree returns the root of a new, empty file system in memory, which goes
// when it is closed. It is mounted nowhere.
func emptyTree() (*os.File, error) {
	var root *os.File
	var err error
	onSpareThread(func() { root, err = mountEmpty("/proc") })
	return root, err
}

// onSpareThread calls f on a thread that ends afterwards, and so cannot be the
// process's first one.
func onSpareThread(f func()) {
	done := make(chan struct{})
	go func() {
		// Never unlocked: that ends the thread with the goroutine.
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			f()
		} else {
			onSpareThread(f)
			runtime.UnlockOSThread()
		}
		close(done)
	}()
	<-done
}

// mountEmpty mounts an empty file system on dir in a mount namespace that only
// this thread has, and opens it.
func mountEmpty(dir string) (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, hintMount("mount namespace", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, hintMount("mount namespace", err)
	}
	if err := unix.Mount("plash", dir, "tmpfs", 0, "mode=755"); err != nil {
		return nil, hintMount("tmpfs", err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errs.Path(dir, err)
	}
	return os.NewFile(uintptr(fd), "tmpfs"), nil
}
