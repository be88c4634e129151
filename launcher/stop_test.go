package launcher

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestStoppedAndContinued: a container that goes on again before its caller has
// stopped, too, does not leave the caller stopped.
func TestStoppedAndContinued(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	raised := syscall.Signal(0)
	defer func(was func(syscall.Signal)) { raise = was }(raise)
	raise = func(s syscall.Signal) { raised = s }
	pid := cmd.Process.Pid
	p := &parent{child: pid, seen: map[os.Signal]time.Time{unix.SIGTTIN: time.Now().Add(time.Hour)}}
	for range 2 { // the second stop is one again
		raised = 0
		unix.Kill(pid, unix.SIGSTOP)
		if _, err := unix.Wait4(pid, nil, unix.WUNTRACED, nil); err != nil {
			t.Fatal(err)
		}
		if p.stop(unix.SIGTTIN); raised != unix.SIGTTIN {
			t.Errorf("signal %d was raised", raised)
		}
		raised = 0
		unix.Kill(pid, unix.SIGCONT)
		if p.stop(unix.SIGTTIN); raised != 0 {
			t.Errorf("signal %d was raised, although the container had gone on", raised)
		}
	}
}
