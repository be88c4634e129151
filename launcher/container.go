package launcher

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"plash/fs"
	"plash/internal/errs"
	"plash/internal/passwd"
	"plash/internal/procs"
)

// container is the stage that becomes the program. All of it happens on one
// thread: a mount namespace is a thread's until it executes something.
func container(j *job) {
	runtime.LockOSThread()
	j.begin()
	dieWith(j.Parent)
	if err := j.setUp(); err != nil {
		tell(j.Tell, wordError, err.Error())
		os.Exit(1)
	}
	if j.Mapped {
		if err := procs.DropInheritable(); err != nil {
			tell(j.Tell, wordError, "capabilities: "+errs.Text(err))
			os.Exit(1)
		}
	}
	os.Exit(j.execute())
}

// setUp makes this process see what the program is to see.
func (j *job) setUp() error {
	dev, mounted := -1, pipe{-1, -1}
	if j.merged() {
		var err error
		if dev, mounted, err = j.startServer(); err != nil {
			return err
		}
		defer mounted.close()
	}
	unix.Close(j.Warn) // its only holder is the server now, or nobody
	if !j.NoMount {
		// The server, who never sees the mount, cannot get stuck on it.
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return hintMount("mount namespace", err)
		}
		// Mounts made here stay here; what the host unmounts goes here too.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			return hintMount("mount namespace", err)
		}
	}
	root := j.Mountpoint
	switch {
	case j.merged():
		flags := uintptr(0)
		if j.readOnly() {
			flags = unix.MS_RDONLY
		}
		err := fs.Mount(dev, root, flags)
		// The server alone holds the device now: if it dies, requests fail.
		unix.Close(dev)
		if err != nil {
			return hintMount(root, err)
		}
		unix.Write(mounted.w, []byte{0})
	case j.Dir != "":
		if root == "" {
			root = j.Dir
		}
		if root == "/" {
			// What is mounted on "/" cannot be named; the host's root goes
			// here itself, so nothing is lost by covering it.
			root = "/mnt"
		}
		if err := unix.Mount(j.Dir, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return hintMount(root, err)
		}
	}
	switch j.View {
	case Host:
		return errs.Path(root, unix.Chdir(root))
	case Container:
		return j.enter(root)
	}
	return nil
}

// startServer opens the FUSE device, in the user namespace in which it will be
// mounted, and starts the server as the caller's child. A byte written to the
// pipe tells the server that the mount is there.
func (j *job) startServer() (dev int, mounted pipe, err error) {
	if dev, err = openDevice(); err != nil {
		return -1, pipe{-1, -1}, err
	}
	if mounted, err = newPipe(); err != nil {
		return -1, pipe{-1, -1}, err
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, mounted, errs.Path("/dev/null", err)
	}
	defer unix.Close(null)
	argv := []string{string(stageServer), strconv.Itoa(j.Self), strconv.Itoa(dev), strconv.Itoa(mounted.r)}
	pid, err := execSelf(argv, &syscall.ProcAttr{
		Dir: "/",
		// What the server says as it dies is for the caller too.
		Files: []uintptr{uintptr(null), uintptr(null), uintptr(j.Warn)},
		// A session of its own keeps the terminal's signals away.
		Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT, Setsid: true},
	}, j.Self, j.Warn, j.Lock, dev, mounted.r)
	if err != nil {
		return -1, mounted, fmt.Errorf("file system server: %s", errs.Text(err))
	}
	tell(j.Tell, wordServer, strconv.Itoa(pid))
	mounted.closeRead()
	return dev, mounted, nil
}

func openDevice() (int, error) {
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, hintDevice(err)
	}
	// Some sandboxes put /dev/null there, which mount(2) finds just invalid.
	var st unix.Stat_t
	if err := unix.Fstat(dev, &st); err == nil && st.Rdev != unix.Mkdev(10, 229) {
		unix.Close(dev)
		return -1, hintDevice(unix.ENODEV)
	}
	return dev, nil
}

// enter binds what is to be bound on the tree at root, makes it this process's
// root and goes to the working directory.
func (j *job) enter(root string) error {
	// Or else it would be copied into itself with the host's root, and with
	// any directory that contains the mountpoint.
	if err := unix.Mount("", root, "", unix.MS_UNBINDABLE, ""); err != nil {
		return hintMount(root, err)
	}
	if err := rootBinds(root, j.Binds, j.note); err != nil {
		return err
	}
	if j.NoMount {
		// In the host's own namespace the binds share what is mounted with
		// their sources, and unmounting them would unmount that too.
		if err := unix.Mount("", root, "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			return hintMount(root, err)
		}
	}
	// A plash inside must be able to bind it.
	if err := unix.Mount("", root, "", unix.MS_PRIVATE, ""); err != nil {
		return hintMount(root, err)
	}
	if err := j.changeRoot(root); err != nil {
		return hintMount(root, err)
	}
	if j.Workdir != "" {
		return errs.Path(j.Workdir, unix.Chdir(j.Workdir))
	}
	if j.Cwd == "" || unix.Chdir(j.Cwd) != nil {
		j.Cwd = "/"
		return errs.Path("/", unix.Chdir("/"))
	}
	return nil
}

func (j *job) note(text string) { tell(j.Tell, wordNote, text) }

// changeRoot makes the mount root this process's root directory.
func (j *job) changeRoot(root string) error {
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if j.NoMount {
		return unix.Chroot(".")
	}
	// The old root ends up on top of the new one, and is taken off there.
	err := unix.PivotRoot(".", ".")
	if err == nil {
		return unix.Unmount(".", unix.MNT_DETACH)
	}
	// Docker's seccomp profile forbids that but not this, and an initramfs
	// allows no other way. In contrast to a mere chroot, user namespaces can
	// still be made afterwards.
	j.note("pivot_root: " + errs.Text(err) + "; the root is moved instead")
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	return unix.Chroot(".")
}

// loginScript executes its arguments as they are, once the login shell has read
// its profile. It looks for the program itself, so that there is one wording
// for one that is missing, whatever the shell is.
const loginScript = `export PATH
_plash=127
case $1 in
*/*)
	if [ -e "$1" ]; then
		_plash=126
		if [ -f "$1" ] && [ -x "$1" ]; then _plash=0; fi
	fi ;;
*)
	set -f
	IFS=:
	for _plash_dir in $PATH; do
		[ -f "${_plash_dir:-.}/$1" ] || continue
		_plash=126
		if [ -x "${_plash_dir:-.}/$1" ]; then _plash=0; break; fi
	done
	unset IFS
	set +f ;;
esac
case $_plash in
0) exec "$@" ;;
126) printf 'plash error: %s: Permission denied\n' "$1" >&2 ;;
*) printf 'plash error: %s: command not found\n' "$1" >&2 ;;
esac
exit $_plash`

const shell = "/bin/sh"

// execute becomes the program. If it cannot, it says why on standard error and
// returns the exit code.
func (j *job) execute() int {
	if j.View != Container {
		if len(j.Args) == 0 {
			return execute(j.Shell, []string{j.Shell}, os.Environ())
		}
		return execute(j.Args[0], j.Args, os.Environ())
	}
	root, ok := passwd.ByUID("/etc/passwd", 0)
	if !ok {
		root = passwd.Entry{Name: "root"}
	}
	if root.Home == "" {
		root.Home = "/root"
	}
	if !executable(root.Shell) {
		root.Shell = shell
	}
	env := j.Rules.environment(os.Environ(), root)
	switch {
	case len(j.Args) == 0:
		return execute(root.Shell, []string{root.Shell, "-l"}, env)
	case executable(shell):
		return execute(shell, slices.Concat([]string{"sh", "-lc", loginScript, "sh"}, j.Args), env)
	}
	return execute(j.Args[0], j.Args, env)
}

// executable reports whether path is a program.
func executable(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && unix.Access(path, unix.X_OK) == nil
}

// execute executes the program name, looked for as execvp(3) does.
func execute(name string, argv, env []string) int {
	complain := func(text string) { fmt.Fprintf(os.Stderr, "plash error: %s: %s\n", name, text) }
	file, err := find(name, env)
	if err == unix.ENOENT {
		complain("command not found")
		return 127
	}
	if err == nil {
		// This also gives the program the caller's limit of open files.
		err = syscall.Exec(file, argv, env)
	}
	if err == unix.ENOEXEC {
		// A script without a first line that says of what.
		err = syscall.Exec(shell, slices.Concat([]string{shell, file}, argv[1:]), env)
	}
	if err == unix.ENOENT {
		complain("its interpreter is missing")
	} else {
		complain(errs.Text(err))
	}
	return 126
}

// find returns the file that name stands for in env's PATH.
func find(name string, env []string) (string, error) {
	var st unix.Stat_t
	if strings.Contains(name, "/") {
		err := unix.Stat(name, &st)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = unix.EACCES // as execve(2) says
		}
		return name, err
	}
	path := usualPath
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, "PATH="); ok {
			path = value
		}
	}
	err := unix.ENOENT
	for dir := range strings.SplitSeq(path, ":") {
		file := filepath.Join(dir, name)
		if dir == "" {
			file = "./" + name
		}
		if name == "" || unix.Stat(file, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		if unix.Access(file, unix.X_OK) == nil {
			return file, nil
		}
		err = unix.EACCES
	}
	return "", err
}
