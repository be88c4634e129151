package tests

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// started is a plash that runs a program which first prints a line.
type started struct {
	t   *testing.T
	cmd *exec.Cmd
	out *bufio.Reader
	err bytes.Buffer
}

// start starts plash and waits for the line "ready" on its standard output.
func start(t *testing.T, words ...string) *started {
	t.Helper()
	s := &started{t: t, cmd: exec.Command("plash", words...)}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Stderr, s.out = &s.err, bufio.NewReader(out)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.cmd.Process.Kill(); s.cmd.Wait() })
	s.reads("ready")
	return s
}

// startSilent starts plash without a look at its output.
func startSilent(t *testing.T, words ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("plash", words...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// reads demands a line on standard output.
func (s *started) reads(want string) {
	s.t.Helper()
	line, err := s.out.ReadString('\n')
	if strings.TrimSuffix(line, "\n") != want {
		s.t.Fatalf("got %q (%v), want the line %q\nstderr: %s", line, err, want, s.err.String())
	}
}

// wait waits for plash's end.
func (s *started) wait() syscall.WaitStatus {
	s.t.Helper()
	timer := time.AfterFunc(20*time.Second, func() { s.cmd.Process.Kill() })
	defer timer.Stop()
	s.cmd.Wait()
	return s.cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// children returns the processes that have pid as their parent.
func children(pid int) []int {
	var pids []int
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for _, word := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// TestSignals: a signal to plash is one to the program, once; and plash ends as
// the program does.
func TestSignals(t *testing.T) {
	each(t, everyone, 3*time.Minute, func(t *testing.T) {
		id := needTiny(t)
		for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGINT, unix.SIGQUIT, unix.SIGALRM} {
			name := strings.TrimPrefix(unix.SignalName(s), "SIG")
			// Caught: the program decides.
			script := fmt.Sprintf(`trap 'echo got; n=$((n+1))' %s; n=0; echo ready; while [ $n = 0 ]; do sleep 0.1; done; sleep 0.3; exit $((40+n))`, name)
			p := start(t, "run", id, "sh", "-c", script)
			p.cmd.Process.Signal(s)
			p.reads("got")
			if status := p.wait(); status.ExitStatus() != 41 {
				t.Errorf("%s caught once: got %v", name, p.cmd.ProcessState)
			}
			// Not caught: plash dies of it too.
			p = start(t, "run", id, "sh", "-c", "echo ready; exec sleep 100")
			// busybox's sh loses a SIGQUIT that comes as it executes sleep.
			eventually(t, "sleep runs", func() bool { return isParent(p.cmd.Process.Pid, "sleep") })
			p.cmd.Process.Signal(s)
			if status := p.wait(); !status.Signaled() || status.Signal() != s {
				t.Errorf("%s not caught: got %v", name, p.cmd.ProcessState)
			}
		}
		// Stopped and continued as the program is.
		p := start(t, "run", id, "sh", "-c", "echo ready; kill -STOP $$; echo on; exit 5")
		eventually(t, "plash is stopped", func() bool { return stateOf(p.cmd.Process.Pid) == "T" })
		p.cmd.Process.Signal(unix.SIGCONT)
		p.reads("on")
		if status := p.wait(); status.ExitStatus() != 5 {
			t.Errorf("stopped and continued: got %v", p.cmd.ProcessState)
		}
		// Signal dispositions pass: nohup works inside.
		r := run(t, "sh", "-c", "trap '' INT; plash run "+id+" sh -c 'kill -INT $$; echo alive'")
		r.prints("alive")
		noTemps(t)
	})
}

// TestSignalAtStart: a signal that comes while a run starts ends it, and leaves
// no temporary directory.
func TestSignalAtStart(t *testing.T) {
	each(t, everyone, time.Minute, func(t *testing.T) {
		id := needTiny(t)
		for i := range 80 {
			cmd := startSilent(t, "run", id, "sleep", "100")
			time.Sleep(time.Duration(i) * 200 * time.Microsecond)
			cmd.Process.Signal(unix.SIGINT)
			cmd.Wait()
			if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != unix.SIGINT {
				t.Errorf("attempt %d: %v", i, cmd.ProcessState)
			}
		}
		noTemps(t)
	})
}

// isParent reports whether a child of pid is the program of this name.
func isParent(pid int, name string) bool {
	return slices.ContainsFunc(children(pid), func(child int) bool {
		words, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", child))
		return strings.HasPrefix(string(words), name+"\x00")
	})
}

// stateOf returns the state of a process as /proc shows it, such as S or T.
func stateOf(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return rest[:1]
}

// TestKilled: whatever is killed, nothing is left.
func TestKilled(t *testing.T) {
	each(t, everyone, 2*time.Minute, func(t *testing.T) {
		id := needTiny(t)
		// plash itself: the program ends with it.
		p := start(t, "run", id, "sh", "-c", "echo ready; exec sleep 1000")
		pids := children(p.cmd.Process.Pid)
		if len(pids) == 0 {
			t.Fatal("plash has no children")
		}
		p.cmd.Process.Kill()
		p.wait()
		for _, pid := range pids {
			eventually(t, "plash's children have ended", func() bool { s := stateOf(pid); return s == "" || s == "Z" })
		}
		noTemps(t)
		// The server: the container cannot go on, and plash says so.
		p = start(t, "run", id, "sh", "-c", "echo ready; while :; do sleep 0.1; cat /etc/motd >/dev/null; done")
		eventually(t, "a child of plash, the server, has a session of its own", func() bool {
			for _, pid := range children(p.cmd.Process.Pid) {
				if sid, err := unix.Getsid(pid); err == nil && sid == pid {
					return unix.Kill(pid, unix.SIGKILL) == nil
				}
			}
			return false
		})
		if p.wait(); p.cmd.ProcessState.Success() || !strings.Contains(p.err.String(), "plash error: ") {
			t.Errorf("server killed: got %v and %q", p.cmd.ProcessState, p.err.String())
		}
		plash(t, "clean").ok()
		noTemps(t)
	})
}

// TestPipes: pipelines end as those of other programs do.
func TestPipes(t *testing.T) {
	each(t, everyone, time.Minute, func(t *testing.T) {
		id := needTiny(t)
		run(t, "bash", "-c", "plash run "+id+" yes | head -n 1; echo ${PIPESTATUS[0]}").prints("y\n141")
		run(t, "bash", "-c", "seq 1000 | plash run "+id+" tail -n 1").prints("1000")
		run(t, "bash", "-c", "plash run "+id+" sh -c 'kill -9 $$'; echo $?").prints("137")
		noTemps(t)
	})
}

// TestBackground: a process that the container leaves behind keeps working, and
// when it ends, all of plash is gone.
func TestBackground(t *testing.T) {
	each(t, everyone, 2*time.Minute, func(t *testing.T) {
		id := needTiny(t)
		dir := writable(t)
		script := fmt.Sprintf(`echo before >/before
			(while [ ! -e %[1]s/stop ]; do sleep 0.1; done
			 cat /before /etc/motd >%[1]s/out; ls /bin/vi >>%[1]s/out; echo after >/after; cat /after >>%[1]s/out) >/dev/null 2>&1 &
			echo pid $!`, dir)
		if out := plash(t, "run", id, "sh", "-c", script).ok(); !strings.HasPrefix(out, "pid ") {
			t.Fatalf("got %q", out)
		}
		// While it works clean takes nothing from it, nor can its image go.
		plash(t, "clean").ok()
		if temps := names(t, filepath.Join(os.Getenv("PLASH_DATA"), "tmp")); len(temps) != 1 {
			t.Errorf("temporary directories: %q, want one", temps)
		}
		plash(t, "rm", id).fails("image in use")
		os.WriteFile(filepath.Join(dir, "stop"), nil, 0o644)
		eventually(t, "the background process is done", func() bool {
			out, _ := os.ReadFile(filepath.Join(dir, "out"))
			return string(out) == "before\na tiny system\n/bin/vi\nafter\n"
		})
		noTemps(t)
		plash(t, "rm", id).ok()
	})
}

// TestRunit: plash as a supervised service: start, restart, stop.
func TestRunit(t *testing.T) {
	each(t, everyone, 2*time.Minute, func(t *testing.T) {
		for _, program := range []string{"runsv", "sv"} {
			if _, err := exec.LookPath(program); err != nil {
				t.Skip("no runit on this machine: tests/setup.sh installs it")
			}
		}
		id := needTiny(t)
		service := filepath.Join(writable(t), "service")
		os.Mkdir(service, 0o755)
		log := filepath.Join(service, "log.txt")
		script := fmt.Sprintf("#!/bin/sh\nexec plash run %s sh -c 'trap \"echo stop >>%[2]s; exit 0\" TERM; echo start >>%[2]s; while :; do sleep 0.1; done'\n", id, log)
		if err := os.WriteFile(filepath.Join(service, "run"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		logged := func(want string) func() bool {
			return func() bool { out, _ := os.ReadFile(log); return string(out) == want }
		}
		runsv := exec.Command("runsv", service)
		if err := runsv.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { runsv.Process.Signal(unix.SIGTERM); runsv.Wait() }()
		eventually(t, "the service has started", logged("start\n"))
		run(t, "sv", "restart", service).ok()
		eventually(t, "the service has restarted", logged("start\nstop\nstart\n"))
		run(t, "sv", "stop", service).ok()
		eventually(t, "the service has stopped", logged("start\nstop\nstart\nstop\n"))
		run(t, "sv", "exit", service).ok()
		noTemps(t)
	})
}

// A terminal is a shell with job control on a pseudo terminal.
type terminal struct {
	t    *testing.T
	file *os.File
	text chan string
	seen string
}

func openTerminal(t *testing.T) *terminal {
	t.Helper()
	term := startTerminal(t, "bash", "--norc", "-i")
	term.expect("PROMPT> ")
	return term
}

// startTerminal starts a shell of one's choice.
func startTerminal(t *testing.T, words ...string) *terminal {
	t.Helper()
	shell := exec.Command(words[0], words[1:]...)
	shell.Env = append(os.Environ(), "PS1=PROMPT> ", "TERM=dumb")
	file, err := pty.StartWithSize(shell, &pty.Winsize{Rows: 24, Cols: 80})
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, file: file, text: make(chan string, 1000)}
	go func() {
		defer close(term.text)
		buffer := make([]byte, 4096)
		for {
			n, err := file.Read(buffer)
			if n > 0 {
				term.text <- string(buffer[:n])
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		file.Close()
		shell.Process.Kill()
		shell.Wait()
	})
	return term
}

// send types text.
func (term *terminal) send(text string) {
	term.t.Helper()
	if _, err := io.WriteString(term.file, text); err != nil {
		term.t.Fatal(err)
	}
}

// expect reads until text appears, and forgets what came before.
func (term *terminal) expect(text string) {
	term.t.Helper()
	limit := time.After(15 * time.Second)
	for !strings.Contains(term.seen, text) {
		select {
		case more, ok := <-term.text:
			if !ok {
				term.t.Fatalf("the terminal was closed; want %q, got %q", text, term.seen)
			}
			term.seen += more
		case <-limit:
			term.t.Fatalf("want %q, got %q", text, term.seen)
		}
	}
	_, term.seen, _ = strings.Cut(term.seen, text)
}

// press types key each second until text appears: a key has no effect while a shell is
// just starting a program.
func (term *terminal) press(key, text string) {
	term.t.Helper()
	term.send(key)
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for tries := 0; !strings.Contains(term.seen, text) && tries < 15; {
		select {
		case more := <-term.text:
			term.seen += more
		case <-again.C:
			tries++
			term.send(key)
		}
	}
	term.expect(text)
}

// TestTerminal: Ctrl-C, Ctrl-Z, fg and the window's size.
func TestTerminal(t *testing.T) {
	each(t, everyone, 2*time.Minute, func(t *testing.T) {
		id := needTiny(t)
		term := openTerminal(t)
		term.send("stty -echo\n")
		term.expect("PROMPT> ")

		term.send("plash run " + id + " sh -c 'test -t 0 && test -t 1 && test -t 2 && echo a tty; stty size'\n")
		term.expect("a tty\r\n")
		term.expect("24 80\r\n")
		term.expect("PROMPT> ")

		// Ctrl-C that nobody catches ends plash; 130 is the shell's word for it.
		term.send("plash run " + id + " sh -c 'echo wait; sleep 1000'; echo not this\n")
		term.expect("wait\r\n")
		term.send("\x03")
		term.expect("PROMPT> ")
		term.send("echo code $?\n")
		term.expect("code 130\r\n")
		// Caught, it arrives once.
		term.send("plash run " + id + " sh -c 'trap \"echo caught\" INT; echo wait; sleep 1; sleep 1; exit 4'; echo code $?\n")
		term.expect("wait\r\n")
		term.send("\x03")
		term.expect("caught\r\n")
		term.expect("code 4\r\n")
		if strings.Contains(term.seen, "caught") {
			t.Error("Ctrl-C arrived twice")
		}
		// Ctrl-\ too.
		term.send("plash run " + id + " sh -c 'trap \"echo quit; exit 6\" QUIT; echo wait; sleep 1; exit 4'; echo code $?\n")
		term.expect("wait\r\n")
		term.send("\x1c")
		term.expect("code 6\r\n")

		// A build ends by Ctrl-C, however it was called.
		for _, words := range []string{"build " + id + " ", "build --from " + id + " --run ", "--from " + id + " --run ", "cache build " + id + " ", "do build --from " + id + " --run "} {
			term.send("plash " + words + "'printf \"wa%s\\n\" it; sleep 1000'\n")
			term.expect("wait\r\n") // which the trace does not say
			term.send("\x03")
			term.expect("PROMPT> ")
			term.send("echo code $?\n")
			term.expect("code 130\r\n")
		}

		// A build that is remembered stops as its program does.
		term.send("plash cache build " + id + " sh -c 'kill -STOP $$; echo on >&2'\n")
		term.expect("Stopped")
		term.send("fg\n")
		term.expect("on\r\n")
		term.expect("PROMPT> ")

		// Ctrl-Z stops, fg goes on.
		term.send("plash run " + id + " sh -c 'echo wait; read line; echo read $line'\n")
		term.expect("wait\r\n")
		term.send("\x1a")
		term.expect("Stopped")
		term.send("\n")
		term.expect("PROMPT> ")
		term.send("fg\n")
		term.expect("plash run")
		term.send("hello\n")
		term.expect("read hello\r\n")
		term.expect("PROMPT> ")

		// In the background it stops when it wants to read.
		term.send("plash run " + id + " sh -c 'read line; echo read $line' &\n")
		term.expect("PROMPT> ")
		for range 20 {
			term.send("jobs\n")
			term.expect("PROMPT> ")
			time.Sleep(50 * time.Millisecond)
		}
		term.send("fg\n")
		term.expect("plash run")
		term.send("again\n")
		term.expect("read again\r\n")
		term.expect("PROMPT> ")

		// The window changes its size.
		term.send("plash run " + id + " sh -c 'trap \"stty size; exit\" WINCH; echo wait; while :; do sleep 0.1; done'\n")
		term.expect("wait\r\n")
		if err := pty.Setsize(term.file, &pty.Winsize{Rows: 50, Cols: 132}); err != nil {
			t.Fatal(err)
		}
		term.expect("50 132\r\n")
		term.expect("PROMPT> ")

		// A shell with job control of its own inside.
		term.send("plash run " + id + "\n")
		term.expect("# ")
		term.send("sleep 100\n")
		time.Sleep(200 * time.Millisecond)
		term.press("\x03", "# ")
		term.send("exit 9\n")
		term.expect("PROMPT> ")
		term.send("echo code $?\n")
		term.expect("code 9\r\n")
		term.send("exit\n")
		noTemps(t)
	})
}
