package launcher

import (
	"bufio"
	"errors"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"plash/internal/procs"
)

// errServerDied is what a run ends with when its file system server was killed
// while the program ran. The program cannot go on without its files.
var errServerDied = errors.New("the file system server died")

// A parent is the caller's side of a run. Its goroutine waits for the children;
// one forwards signals, and one each reads what container and server say.
type parent struct {
	config   *Config
	job      *job
	identity identity

	said, warned listener // of the container's start, and the server's words
	life         pipe     // ends with this process; see job.Life
	signals      chan os.Signal
	others       []int  // this process's children that are not of this run
	unmount      func() // takes away a mount that is not in a namespace of its own; may be nil

	mu     sync.Mutex
	child  int // the container; 0 once it was reaped and its number is free
	server int // 0: none
	status Status
	gone   map[int]unix.WaitStatus // the other children that were reaped
	seen   map[os.Signal]time.Time // when a signal came last

	stopping bool      // stop sees to SIGCONT
	stopped  time.Time // when it stopped this process last
}

// run starts the container, which begins as stage s, and waits for it.
func (p *parent) run(s stage) (Status, error) {
	if s != stageServer {
		// The container dies with the thread that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
	}
	c, j := p.config, p.job
	if c.Build {
		// What the program leaves behind becomes this process's child.
		unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
		defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
		p.others = procs.Children()
	}
	if j.NoMount && j.View != Userspace {
		// Others see this mount, so it must not lie on that of another run.
		dir, err := os.MkdirTemp("", "plash")
		if err != nil {
			return Status{}, err
		}
		p.unmount = func() {
			unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			os.Remove(dir)
		}
		defer p.unmount()
		j.Mountpoint = dir
	}

	if !p.config.last {
		defer p.releaseSignals()
	}
	if err := p.start(s); err != nil {
		p.removeTemp()
		return Status{}, err
	}
	for len(p.signals) > 0 {
		// The terminal's signals, too: there was no container yet. Its own it has already.
		if s := <-p.signals; !slices.Contains(ownSignals, s) {
			p.send(s)
		}
	}
	go p.forward()
	p.wait()
	return p.finish()
}

// start starts the container, and listens to it and the server.
func (p *parent) start(s stage) error {
	said, err := newPipe()
	if err != nil {
		return err
	}
	defer said.closeWrite()
	warned, err := newPipe()
	if err != nil {
		said.closeRead()
		return err
	}
	defer warned.closeWrite()
	if p.life, err = newPipe(); err != nil {
		said.closeRead()
		warned.closeRead()
		return err
	}
	defer p.life.closeRead()
	j := p.job
	j.Tell, j.Warn, j.Life = said.w, warned.w, p.life.r
	attr := &syscall.SysProcAttr{}
	if s == stageServer && j.Group != 0 {
		attr.Setpgid = true // the terminal's signals are not for it
	}
	pid, err := j.start(s, p.identity, p.config, attr, p.catchSignals, j.Tell, j.Warn, j.Life, j.Lock)
	if err != nil {
		said.closeRead()
		warned.closeRead()
		p.life.closeWrite()
		return err
	}
	if s == stageServer {
		p.server = pid
	} else {
		p.child = pid
	}
	p.gone, p.seen = map[int]unix.WaitStatus{}, map[os.Signal]time.Time{}
	p.said.listen(said.r, func(word byte, text string) {
		switch word {
		case wordNote:
			p.config.say("%s", text)
		case wordContainer:
			p.child, _ = strconv.Atoi(text)
		case wordCode:
			p.status.Code, _ = strconv.Atoi(text)
		}
	})
	p.warned.listen(warned.r, func(word byte, text string) {
		if word != wordError && word != wordEnd {
			p.config.say("file system server: %c%s", word, text)
		}
	})
	said.closeWrite()
	p.catch(rareSignals)
	if s == stageServer {
		<-p.said.done // the container is there now, or never will be
	}
	return nil
}

// wait waits until the container has ended, and stops when it stops.
func (p *parent) wait() {
	for p.child != 0 && p.sleep() {
		for {
			pid, ws := p.reap()
			if pid <= 0 {
				break
			}
			if pid == p.child && ws.Stopped() {
				p.stop(ws.StopSignal())
			}
		}
	}
}

// sleep returns when a child's state has changed; false if there is no child.
func (p *parent) sleep() bool {
	for {
		// It is not reaped yet: that is done under the lock, lest a signal be
		// sent to another process that has got its number meanwhile.
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WSTOPPED|unix.WCONTINUED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return err == nil
		}
	}
}

// reap takes notice of one child's changed state; 0 if none has changed.
func (p *parent) reap() (int, unix.WaitStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ws unix.WaitStatus
	pid, err := unix.Wait4(-1, &ws, unix.WNOHANG|unix.WUNTRACED|unix.WCONTINUED, nil)
	if err != nil {
		pid = 0
	}
	switch {
	case pid <= 0 || ws.Stopped() || ws.Continued():
	case pid == p.child:
		p.child = 0
		p.status = Status{Code: ws.ExitStatus()}
		if ws.Signaled() {
			p.status = Status{Signal: ws.Signal()}
		}
	default:
		p.gone[pid] = ws
		p.checkServer()
	}
	return pid, ws
}

// checkServer ends the container if the server has died. p.mu is held.
func (p *parent) checkServer() {
	if p.serverFailed() && p.child != 0 {
		unix.Kill(p.child, unix.SIGKILL)
	}
}

// serverFailed reports whether the server ended before it should. p.mu is held.
func (p *parent) serverFailed() bool {
	ws, ended := p.gone[p.server]
	return ended && (!ws.Exited() || ws.ExitStatus() != 0)
}

// raise is a variable for tests.
var raise = procs.Raise

// settles is how long it takes at most until a signal to the whole group has
// arrived here and at the container.
const settles = 50 * time.Millisecond

// stop stops this process as the container stopped. When it is continued, so is the
// container, unless it is already: a shell's fg is for the whole group, and a second
// SIGCONT would let the program go on that was stopped again meanwhile, and take what
// is typed for the shell.
func (p *parent) stop(s syscall.Signal) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Mostly the terminal has sent the signal to this process too. If it came
	// only now, it would stop this process a second time after the first.
	for begin := time.Now(); s != unix.SIGSTOP && !p.justSeen(s) && time.Since(begin) < settles; {
		time.Sleep(time.Millisecond)
	}
	if p.continued() { // the shell's fg came in between, and would leave this process stopped
		return
	}
	p.mu.Lock()
	p.stopping, p.stopped = true, time.Now()
	p.mu.Unlock()
	raise(s)
	for woken := time.Now(); !(p.continued() && p.resumed()) && time.Since(woken) < settles; {
		time.Sleep(time.Millisecond)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopping = false
	if p.resumedSince() && !p.continued() {
		unix.Kill(p.child, unix.SIGCONT)
	}
}

// resumed reports whether this process has been continued since it stopped last.
func (p *parent) resumed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.resumedSince()
}

// resumedSince is resumed while p.mu is held. A signal that stops takes a SIGCONT away
// that has not arrived yet; but then it arrives itself, and this process runs.
func (p *parent) resumedSince() bool {
	return slices.ContainsFunc([]os.Signal{unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU},
		func(s os.Signal) bool { return p.seen[s].After(p.stopped) })
}

// continued reports whether the container goes on, or did so, since it was seen
// stopped.
func (p *parent) continued() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, p.child, &info, unix.WEXITED|unix.WSTOPPED|unix.WCONTINUED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err == nil && info.Signo != 0
}

// finish ends what is to end with the container, and says how that ended.
func (p *parent) finish() (Status, error) {
	<-p.said.done
	unix.Write(p.life.w, []byte{0})
	p.life.closeWrite()
	// With process 1 the kernel ends all others, the server before its time.
	complete := p.config.Build || os.Getpid() == 1
	if complete {
		p.endLeftovers()
	}
	why, failed := p.said.get(wordError)
	_, began := p.said.get(wordContainer)
	_, ended := p.said.get(wordCode)
	switch {
	case failed || p.server != 0 && !began && !ended:
		// The server ends too, and perhaps it knows better.
		p.serverEnds(5 * time.Second)
		p.removeTemp()
	case complete:
		if p.unmount != nil {
			p.unmount() // nobody else does, and the server waits for it
		}
		p.serverEnds(-1)
	case p.status != Status{}:
		// Its files may just have been taken away from it.
		select {
		case <-p.warned.done:
			p.serverEnds(time.Second)
		case <-p.warned.ended:
		case <-time.After(20 * time.Millisecond):
			// Others still use the image.
		}
	}
	for {
		if pid, _ := p.reap(); pid <= 0 {
			break
		}
	}
	died := p.serverFailed()
	if died {
		// What it said last may still be on its way.
		select {
		case <-p.warned.done:
		case <-time.After(time.Second):
		}
	}
	if text, ok := p.warned.get(wordError); ok {
		return Status{}, errors.New(text)
	}
	if died {
		p.removeTemp()
		return Status{}, errServerDied
	}
	if failed {
		return Status{}, errors.New(why)
	}
	return p.status, nil
}

// serverEnds waits until the server has ended, no longer than limit unless
// that is negative.
func (p *parent) serverEnds(limit time.Duration) {
	pause := 100 * time.Microsecond
	for begin := time.Now(); limit < 0 || time.Since(begin) < limit; {
		for {
			if pid, _ := p.reap(); pid <= 0 {
				break
			}
		}
		if _, ended := p.gone[p.server]; ended || p.server == 0 {
			return
		}
		time.Sleep(pause)
		pause = min(2*pause, 20*time.Millisecond)
	}
}

// endLeftovers ends all processes that the container left behind. In a build
// they would change the layer while it is stacked.
func (p *parent) endLeftovers() {
	const patience = 300 * time.Millisecond
	asked := map[int]bool{}
	pause := time.Millisecond
	for begin := time.Now(); ; {
		for {
			if pid, _ := p.reap(); pid <= 0 {
				break
			}
		}
		// A process whose parent has just ended is met the next time round.
		left := 0
		for _, pid := range procs.Children() {
			if pid == p.server || slices.Contains(p.others, pid) {
				continue
			}
			left++
			switch {
			case time.Since(begin) > patience:
				unix.Kill(pid, unix.SIGKILL)
			case !asked[pid]:
				asked[pid] = true
				unix.Kill(pid, unix.SIGTERM)
				unix.Kill(pid, unix.SIGCONT)
			}
		}
		if left == 0 {
			return
		}
		time.Sleep(pause)
		pause = min(2*pause, 20*time.Millisecond)
	}
}

// removeTemp removes the temporary directory where no server lives to do it.
func (p *parent) removeTemp() {
	if p.job.Temp == "" {
		return
	}
	if _, ended := p.gone[p.server]; p.server != 0 && !ended {
		return
	}
	if !p.identity.mapped() || p.server == 0 {
		p.config.Temp.Remove()
		return
	}
	// Files of subordinate ids obey the root of their user namespace only.
	pid, err := p.job.start(stageRemove, p.identity, p.config, &syscall.SysProcAttr{}, nil, p.job.Lock)
	if err == nil {
		unix.Wait4(pid, nil, 0, nil)
	}
}

// remover is the stage that removes a run's temporary directory.
func remover(j *job) {
	removeTemp(j)
	os.Exit(0)
}

// A listener collects what a stage says.
type listener struct {
	done  chan struct{} // closed at the end
	ended chan struct{} // closed by wordEnd
	mu    sync.Mutex
	words map[byte]string
}

// listen reads lines from the descriptor fd, and calls each for each.
func (l *listener) listen(fd int, each func(word byte, text string)) {
	l.done, l.ended, l.words = make(chan struct{}), make(chan struct{}), map[byte]string{}
	file := os.NewFile(uintptr(fd), "pipe")
	go func() {
		defer close(l.done)
		defer file.Close()
		for s := bufio.NewScanner(file); s.Scan(); {
			line := s.Text()
			if line == "" {
				continue
			}
			l.mu.Lock()
			if _, old := l.words[line[0]]; !old {
				l.words[line[0]] = line[1:]
				if line[0] == wordEnd {
					close(l.ended)
				}
			}
			l.mu.Unlock()
			each(line[0], line[1:])
		}
	}()
}

// get returns the first text said with that word so far.
func (l *listener) get(word byte) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text, ok := l.words[word]
	return text, ok
}

// dieWith lets this process be killed when its parent's thread ends. It must
// come after the last change of ids, which takes it back.
func dieWith(parent int) {
	unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	if os.Getppid() != parent {
		os.Exit(1)
	}
}
