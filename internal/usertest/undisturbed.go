package usertest

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// HearHangups undoes what nohup(1) does: the programs that tests start would
// ignore SIGHUP, too.
func HearHangups() {
	if signal.Ignored(unix.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), unix.SIGHUP)
	}
}

// OwnMounts runs this test program once more, in a mount namespace of its own,
// and ends with it; in there it returns, as it does where that is not
// permitted. A mount that lies in the namespace of another process as well,
// such as a container that another package's test starts meanwhile, outlives
// its end here, and its server with it. In the new namespace mounts propagate,
// as they do on a machine with systemd: a container that sees one sees its end.
func OwnMounts() {
	const env = "PLASH_TEST_OWN_MOUNTS"
	if os.Getenv(env) != "" {
		for _, how := range []uintptr{unix.MS_SLAVE, unix.MS_SHARED} {
			if err := unix.Mount("", "/", "", unix.MS_REC|how, ""); err != nil {
				fmt.Fprintln(os.Stderr, "mount / with other propagation:", err)
				os.Exit(1)
			}
		}
		return
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), env+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return // not permitted here
	}
	if err != nil {
		os.Exit(cmd.ProcessState.ExitCode())
	}
	os.Exit(0)
}
