package launcher

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"plash/fs"
	"plash/internal/errs"
	"plash/internal/procs"
)

// MountHost mounts the image of c at dir, for every program that sees dir, and
// calls mounted once it is there. The server goes to the background and ends
// with the mount. Who may mount, in this user namespace, does it; for others
// fusermount3 does, and the server runs in a user namespace, so that it can
// read what belongs to the caller's subordinate ids.
func MountHost(c Config, dir string, mounted func()) error {
	at, err := mountpoint(dir)
	if err != nil {
		return err
	}
	c.View, c.Mountpoint = Host, at
	var id identity
	if os.Geteuid() != 0 && !noUnshare() {
		if id, err = c.identify(); err != nil {
			return err
		}
	}
	j, err := c.job(id)
	if err != nil {
		return err
	}
	if _, err = j.mount(id, &c, nil); err == nil {
		mounted()
	}
	return err
}

// mountpoint returns the absolute path of dir, an existing directory, without symbolic
// links: mount(2) follows them, but who unmounts must not.
func mountpoint(dir string) (string, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return "", errs.Path(dir, err)
	}
	if !info.IsDir() {
		return "", errs.Path(dir, unix.ENOTDIR)
	}
	at, err := filepath.Abs(dir)
	if err == nil {
		at, err = filepath.EvalSymlinks(at)
	}
	return at, errs.Path(dir, err)
}

// mount starts the stage that serves the job's mount, waits until it is there
// and returns the server's process id. Each of the signals ends the server.
func (j *job) mount(id identity, c *Config, signals <-chan os.Signal) (int, error) {
	said, err := newPipe()
	if err != nil {
		return 0, err
	}
	defer said.closeWrite()
	j.Tell = said.w

	// The server gets its device through a socket from fusermount3.
	helped := !procs.HasSysAdmin()
	var socket [2]int
	var end *os.File
	if helped {
		if socket, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			said.closeRead()
			return 0, fmt.Errorf("socket: %s", errs.Text(err))
		}
		end = os.NewFile(uintptr(socket[0]), "socket")
		defer end.Close()
		j.Socket = socket[1]
	}
	pid, err := j.start(stageMount, id, c, &syscall.SysProcAttr{Setsid: true}, nil, j.Tell, j.Socket)
	said.closeWrite()
	if helped {
		unix.Close(socket[1])
	}
	if err != nil {
		said.closeRead()
		return 0, err
	}
	if signals != nil {
		go func() {
			for range signals {
				unix.Kill(pid, unix.SIGTERM)
			}
		}()
	}
	ready, there := make(chan struct{}), make(chan struct{})
	var l listener
	l.listen(said.r, func(word byte, text string) {
		switch word {
		case wordReady:
			close(ready)
		case wordMount:
			close(there)
		}
	})
	if helped {
		select {
		case <-ready:
			if err := j.fuserMount(end); err != nil {
				return 0, err // with the socket's end the server ends
			}
		case <-l.done:
		}
	}
	select {
	case <-there:
		return pid, nil
	case <-l.done:
	}
	if _, ok := l.get(wordMount); ok { // and it has ended already
		return pid, nil
	}
	if text, ok := l.get(wordError); ok {
		return 0, errors.New(text)
	}
	return 0, errServerDied
}

// mountServer is the stage that serves an image for everybody.
func mountServer(j *job) {
	debug.SetGCPercent(fs.GCPercent)
	o := fs.Options{HostIDs: j.Mapped}
	if j.Union != nil {
		o = j.Union.Serve
	}
	stderr := -1
	if o.Debug {
		stderr = 2
	}
	j.standAlone(stderr)
	u, err := j.open()
	if err != nil {
		tell(j.Tell, wordError, err.Error())
		os.Exit(1)
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	dev, err := j.mountDevice()
	if err != nil {
		tell(j.Tell, wordError, err.Error())
		u.Close()
		os.Exit(1)
	}
	ours, _ := fs.Device(j.Mountpoint)
	go j.unmountAt(term, ours)
	tell(j.Tell, wordMount, "")
	os.Exit(j.serve(u, dev, j.Tell, o))
}

// mountDevice returns a FUSE device that is mounted at the job's mountpoint.
func (j *job) mountDevice() (int, error) {
	if j.Socket >= 0 {
		tell(j.Tell, wordReady, "")
		defer unix.Close(j.Socket)
		return receive(j.Socket)
	}
	dev, err := openDevice()
	if err != nil {
		return -1, err
	}
	flags := uintptr(0)
	var data []string
	if j.Union != nil {
		flags, data = j.Union.Flags, j.Union.Security
	}
	if j.readOnly() {
		flags |= unix.MS_RDONLY
	}
	if err := fs.Mount(dev, j.source(), j.Mountpoint, flags, data...); err != nil {
		return -1, hintMount(j.Mountpoint, err)
	}
	return dev, nil
}

// unmountAt takes the mount with the device number ours away when this process is told
// to end, as when the machine shuts down: what programs wrote is in the kernel's cache
// still, and comes here before the mount is gone. If another file system is seen at the
// mountpoint nothing is done: the mount has been taken away, and who has files open
// there may write to them, or something else lies upon it.
func (j *job) unmountAt(term <-chan os.Signal, ours uint64) {
	seen := func() bool {
		at, err := fs.Device(j.Mountpoint)
		return err != nil || at == ours
	}
	for range term {
		if seen() && detach(j.Mountpoint) != nil && seen() {
			os.Exit(1)
		}
	}
}

func detach(dir string) error {
	if procs.HasSysAdmin() {
		return unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	path, err := helper()
	if err != nil {
		return err
	}
	return exec.Command(path, "-u", "-z", "--", dir).Run()
}

// receive returns the descriptor that comes through a socket.
func receive(socket int) (int, error) {
	control := make([]byte, unix.CmsgSpace(4))
	var data [1]byte
	_, n, _, _, err := unix.Recvmsg(socket, data[:], control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fusermount3: %s", errs.Text(err))
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err == nil && len(messages) == 1 {
		fds, err := unix.ParseUnixRights(&messages[0])
		if err == nil && len(fds) == 1 {
			return fds[0], nil
		}
	}
	return -1, errors.New("fusermount3: it sent no device")
}

// helper returns the installed setuid helper that mounts for users.
func helper() (string, error) {
	for _, name := range []string{"fusermount3", "fusermount"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("fusermount3: command not found (package fuse3)")
}

// source returns what is shown as the mount's source.
func (j *job) source() string {
	if j.Union == nil || j.Union.Source == "" {
		return "plash"
	}
	return j.Union.Source
}

// fuserMount lets fusermount3 mount and send the device to the socket's other
// end.
func (j *job) fuserMount(socket *os.File) error {
	path, err := helper()
	if err != nil {
		return err
	}
	// For an image default_permissions would let the kernel compare with the
	// caller's one id; only he gets in anyway.
	options := "subtype=plash,fsname=" + strings.NewReplacer(`\`, `\\`, ",", `\,`).Replace(j.source())
	if j.Union != nil {
		options += ",default_permissions" + j.Union.helperOptions()
	}
	if j.readOnly() {
		options += ",ro"
	}
	cmd := exec.Command(path, "-o", options, "--", j.Mountpoint)
	cmd.ExtraFiles = []*os.File{socket} // becomes 3
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	return runHelper(cmd)
}

// runHelper runs fusermount3; an error is what it said.
func runHelper(cmd *exec.Cmd) error {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if err != nil && stderr.Len() > 0 {
		return errors.New(strings.Join(strings.Fields(stderr.String()), " "))
	}
	return errs.Path(filepath.Base(cmd.Path), err)
}

// Remount gives the mount at dir these flags of mount(2).
func Remount(dir string, flags uintptr) error {
	at, err := mountedAt(dir)
	if err != nil {
		return err
	}
	return errs.Path(dir, unix.Mount("", at, "", unix.MS_REMOUNT|flags, ""))
}

// Unmount ends the mount of an image at dir.
func Unmount(dir string) error {
	at, err := mountedAt(dir)
	if err != nil {
		return err
	}
	if procs.HasSysAdmin() {
		return errs.Path(dir, unix.Unmount(at, unix.UMOUNT_NOFOLLOW))
	}
	path, err := helper()
	if err != nil {
		return err
	}
	return runHelper(exec.Command(path, "-u", "--", at))
}

// mountedAt returns the mountpoint of the image that dir names. It does not
// look at dir itself, whose server may be dead.
func mountedAt(dir string) (string, error) {
	at, err := filepath.Abs(dir)
	if err != nil {
		return "", errs.Path(dir, err)
	}
	if parent, err := filepath.EvalSymlinks(filepath.Dir(at)); err == nil {
		at = filepath.Join(parent, filepath.Base(at))
	}
	for {
		mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(at))
		if err != nil {
			return "", errs.Path(dir, err)
		}
		if len(mounts) > 0 && mounts[0].FSType == "fuse.plash" {
			return at, nil
		}
		if len(mounts) > 0 {
			return "", fmt.Errorf("%s: not an image's mount", dir)
		}
		// dir may be a link to the mountpoint.
		real, err := filepath.EvalSymlinks(at)
		if err != nil {
			return "", errs.Path(dir, err)
		}
		if real == at {
			return "", fmt.Errorf("%s: not mounted", dir)
		}
		at = real
	}
}
