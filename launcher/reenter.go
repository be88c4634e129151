package launcher

import (
	"os"
	"runtime"
	"syscall"

	"plash/internal/errs"
	"plash/internal/procs"
)

// Reenter runs this very command line again, as userspace root in a new user
// namespace, and ends this process as that ends. It returns only if that is
// impossible. There Unprivileged is false, so it happens once.
func Reenter() error {
	c := &Config{View: Userspace, Command: os.Args}
	status, err := c.run(stageReenter)
	if err != nil {
		return err
	}
	status.Exit()
	return nil
}

// Again runs plash once more, with other words, as the same user, and returns
// how that ended. What it prints goes to stdout.
func Again(words []string, stdout *os.File) (Status, error) {
	return again(words, nil, stdout, true)
}

// AgainAsRoot is Again as userspace root, as Reenter makes it. That plash reads
// stdin.
func AgainAsRoot(words []string, stdin, stdout *os.File) (Status, error) {
	return again(words, stdin, stdout, !Unprivileged())
}

func again(words []string, stdin, stdout *os.File, same bool) (Status, error) {
	c := &Config{View: Userspace, Command: append([]string{"plash"}, words...), same: same, stdin: stdin, stdout: stdout}
	return c.run(stageReenter)
}

// reentered is the stage that becomes the new command line, in a new user
// namespace or not.
func reentered(j *job) {
	runtime.LockOSThread()
	dieWith(j.Parent)
	var err error
	if j.Mapped {
		if os.Getenv("HOME") == "" && j.Home != "" {
			// By the id it would be root's from now on.
			os.Setenv("HOME", j.Home)
		}
		err = procs.DropInheritable()
	}
	if err == nil {
		err = syscall.Exec("/proc/self/exe", j.Args, os.Environ())
	}
	tell(j.Tell, wordError, j.Args[0]+": "+errs.Text(err))
	os.Exit(1)
}
