package launcher

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/internal/passwd"
	"plash/internal/procs"
)

// container is the stage that becomes the program, where no image is served. All
// of it happens on one thread: a mount namespace is a thread's until it executes
// something.
func container(j *job) {
	runtime.LockOSThread()
	dieWith(j.Parent)
	unix.Close(j.Warn) // there is no server
	if err := j.setUp(j.bindDir); err != nil {
		tell(j.Tell, wordError, err.Error())
		os.Exit(1)
	}
	os.Exit(j.execute(syscall.Exec))
}

// setUp makes this thread see what the program is to see, and gives it the
// program's capabilities. mount mounts the root and returns where.
func (j *job) setUp(mount func() (root string, err error)) error {
	if !j.NoMount {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return hintMount("mount namespace", err)
		}
		// Mounts made here stay here; what the host unmounts goes here too.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			return hintMount("mount namespace", err)
		}
	}
	root, err := mount()
	if err != nil {
		return hintMount(root, err)
	}
	switch j.View {
	case Host:
		err = errs.Path(root, unix.Chdir(root))
	case Container:
		err = j.enter(root)
	}
	if err == nil && j.Mapped {
		if err = procs.DropInheritable(); err != nil {
			err = fmt.Errorf("capabilities: %s", errs.Text(err))
		}
	}
	return err
}

// bindDir mounts the directory that is to be the root, if there is one.
func (j *job) bindDir() (root string, err error) {
	if j.Dir == "" {
		return "", nil
	}
	if root = j.Mountpoint; root == "" {
		root = j.Dir
	}
	if root == "/" {
		// What is mounted on "/" cannot be named; the host's root goes
		// here itself, so nothing is lost by covering it.
		root = "/mnt"
	}
	return root, unix.Mount(j.Dir, root, "", unix.MS_BIND|unix.MS_REC, "")
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
*) printf 'plash error: %s: command not found\n' "${1:-''}" >&2 ;;
esac
exit $_plash`

const shell = "/bin/sh"

// An executor executes a file: as this process, and then it returns only an
// error, or as a new one.
type executor func(file string, argv, env []string) error

// execute lets the program be executed. If it cannot be, it says why on standard
// error and returns the exit code.
func (j *job) execute(exec executor) int {
	if j.View != Container {
		if len(j.Args) == 0 {
			return execute(exec, j.Shell, []string{j.Shell}, os.Environ())
		}
		return execute(exec, j.Args[0], j.Args, os.Environ())
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
		return execute(exec, root.Shell, []string{root.Shell, "-l"}, env)
	case executable(shell):
		return execute(exec, shell, slices.Concat([]string{"sh", "-lc", loginScript, "sh"}, j.Args), env)
	}
	return execute(exec, j.Args[0], j.Args, env)
}

// executable reports whether path is a program.
func executable(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && unix.Access(path, unix.X_OK) == nil
}

// execute executes the program name, looked for as execvp(3) does.
func execute(exec executor, name string, argv, env []string) int {
	complain := func(text string) { fmt.Fprintf(os.Stderr, "plash error: %s: %s\n", cmp.Or(name, "''"), text) }
	file, err := find(name, env)
	if err == unix.ENOENT {
		complain("command not found")
		return 127
	}
	if err == nil {
		// This also gives the program the caller's limit of open files.
		err = exec(file, argv, env)
	}
	if err == unix.ENOEXEC {
		// A script without a first line that says of what.
		err = exec(shell, slices.Concat([]string{shell, file}, argv[1:]), env)
	}
	switch err {
	case nil:
		return 0
	case unix.ENOENT:
		complain("its interpreter is missing")
	default:
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
