package launcher

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stopped returns the parent of a program that sleeps, and a function that stops the
// program. The caller may set raise.
func stopped(t *testing.T) (p *parent, halt func()) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	was := raise
	t.Cleanup(func() {
		raise = was
		cmd.Process.Kill()
		cmd.Wait()
	})
	p = &parent{child: cmd.Process.Pid, seen: map[os.Signal]time.Time{}, signals: make(chan os.Signal, 1)}
	return p, func() {
		t.Helper()
		p.mu.Lock()
		p.seen[unix.SIGTTIN] = time.Now()
		p.mu.Unlock()
		unix.Kill(p.child, unix.SIGSTOP)
		if _, err := unix.Wait4(p.child, nil, unix.WUNTRACED, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStoppedAndContinued: a container that goes on again before its caller has
// stopped, too, does not leave the caller stopped.
func TestStoppedAndContinued(t *testing.T) {
	p, halt := stopped(t)
	raised := syscall.Signal(0)
	raise = func(s syscall.Signal) { raised = s }
	for range 2 { // the second stop is one again
		raised = 0
		halt()
		if p.stop(unix.SIGTTIN); raised != unix.SIGTTIN {
			t.Errorf("signal %d was raised", raised)
		}
		raised = 0
		unix.Kill(p.child, unix.SIGCONT)
		if p.stop(unix.SIGTTIN); raised != 0 {
			t.Errorf("signal %d was raised, although the container had gone on", raised)
		}
	}
}

// TestContinuedOnce: the container gets the SIGCONT that has continued its caller,
// unless it came to the whole group: it may have been stopped again meanwhile.
func TestContinuedOnce(t *testing.T) {
	p, halt := stopped(t)
	go p.forward()
	defer close(p.signals)
	for _, group := range []bool{true, false, true} {
		halt()
		raise = func(syscall.Signal) {
			if group {
				unix.Kill(p.child, unix.SIGCONT)
				unix.Kill(p.child, unix.SIGSTOP)
			}
			p.signals <- unix.SIGCONT
		}
		begin := time.Now()
		p.stop(unix.SIGTTIN)
		if group && time.Since(begin) >= settles {
			continue // forward was late
		}
		time.Sleep(20 * time.Millisecond) // for what should not come
		for tries := 0; group && tries < 100; tries++ {
			if pid, _ := unix.Wait4(p.child, nil, unix.WUNTRACED|unix.WNOHANG, nil); pid > 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if goesOn := p.continued(); goesOn == group {
			t.Errorf("to the group: %v; the container goes on: %v", group, goesOn)
		}
		unix.Kill(p.child, unix.SIGCONT)
		unix.Wait4(p.child, nil, unix.WCONTINUED, nil)
	}
}
