package launcher

import (
	"os"
	"os/signal"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// The terminal sends these to the container itself, which is in this process's
// group, while that is the foreground group: then they are not forwarded, as
// every signal must arrive once.
var terminalSignals = []os.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGWINCH}

// These are always forwarded, but a SIGCONT that ends a stop; see parent.stop.
var otherSignals = []os.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGCONT}

// So are these, but they are caught while the other process starts: all of them
// together take half a millisecond. What is missing are SIGPIPE, which this process
// may bring about itself, those that mean that it has failed, SIGURG and SIGPROF, which
// Go's runtime keeps, and 32 to 34, which it leaves to C libraries (34 is musl's).
var rareSignals = append([]os.Signal{unix.SIGABRT, unix.SIGTRAP, unix.SIGSYS, unix.SIGSTKFLT, unix.SIGIO, unix.SIGPWR,
	unix.SIGVTALRM, unix.SIGXCPU, unix.SIGXFSZ}, realTime()...)

// realTime returns the real-time signals that can be caught.
func realTime() (all []os.Signal) {
	for s := unix.Signal(35); s <= 64; s++ {
		all = append(all, s)
	}
	return all
}

// These come to a group in the background that uses the terminal. This process
// does not, and stops when the container does.
var ownSignals = []os.Signal{unix.SIGTTIN, unix.SIGTTOU}

// held is where signals wait for the next run; nil if they do not.
var held chan os.Signal

// HoldSignals lets signals that would end this process wait for the next run,
// which sends them to the container. It is called before something is made that
// only a run removes. The other signals can wait until the run catches them:
// each costs a few ten microseconds.
func HoldSignals() {
	held = make(chan os.Signal, 32)
	for _, s := range []os.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP} {
		if !signal.Ignored(s) {
			signal.Notify(held, s)
		}
	}
}

// catchSignals catches all of these but those that the caller has ignored,
// which the container ignores too.
func (p *parent) catchSignals() {
	if p.signals, held = held, nil; p.signals == nil {
		p.signals = make(chan os.Signal, 32)
	}
	p.catch(slices.Concat(terminalSignals, otherSignals, ownSignals))
}

func (p *parent) catch(signals []os.Signal) {
	for _, s := range signals {
		if !signal.Ignored(s) {
			signal.Notify(p.signals, s)
		}
	}
}

// releaseSignals undoes catchSignals and ends forward.
func (p *parent) releaseSignals() {
	if p.signals == nil {
		return
	}
	signal.Stop(p.signals)
	close(p.signals)
}

// forward sends the signals that arrive on to the container.
func (p *parent) forward() {
	for s := range p.signals {
		own := slices.Contains(ownSignals, s) || slices.Contains(terminalSignals, s) && inForeground()
		p.mu.Lock()
		p.seen[s] = time.Now()
		own = own || s == unix.SIGCONT && p.stopping
		p.mu.Unlock()
		if !own {
			p.send(s)
		}
	}
}

// send sends s to the container.
func (p *parent) send(s os.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child != 0 {
		unix.Kill(p.child, s.(unix.Signal))
	}
}

// justSeen reports whether s came a moment ago, and not for an earlier stop.
func (p *parent) justSeen(s os.Signal) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.seen[s]) < 100*time.Millisecond && p.seen[s].After(p.stopped)
}

// inForeground reports whether this process's group is the foreground group of
// its terminal.
func inForeground() bool {
	tty, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(tty)
	group, err := unix.IoctlGetInt(tty, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
