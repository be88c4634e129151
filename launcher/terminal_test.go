package launcher_test

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// terminal starts an interactive shell, with job control, on a terminal of its
// own.
func (c *caller) terminal() (*os.File, *exec.Cmd) {
	c.t.Helper()
	cmd := c.shell("bash", "--norc", "--noprofile", "-i")
	cmd.Env = append(cmd.Env, "PS1=prompt> ", "PLASH="+c.program+" plash "+c.spec(spec{Layers: host}))
	credential := cmd.SysProcAttr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if credential != nil {
		cmd.SysProcAttr.Credential = credential.Credential
	}
	tty, err := pty.StartWithAttrs(cmd, &pty.Winsize{Rows: 24, Cols: 80}, cmd.SysProcAttr)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		tty.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	c.line(tty, "prompt> ")
	return tty, cmd
}

// say types text and waits for the answer.
func (c *caller) say(tty *os.File, text, answer string) string {
	c.t.Helper()
	if _, err := tty.WriteString(text); err != nil {
		c.t.Fatal(err)
	}
	return c.line(tty, answer)
}

// press types key each second until the answer comes: a key has no effect while a
// shell is just giving the terminal to a job, or continues it.
func (c *caller) press(tty *os.File, key, answer string) {
	c.t.Helper()
	answered, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			tty.WriteString(key)
			select {
			case <-answered:
				return
			case <-time.After(time.Second):
			}
		}
	}()
	defer func() { close(answered); <-done }()
	c.line(tty, answer)
}

// start types the command text, and waits until another job has the terminal.
func (c *caller) start(tty *os.File, text string) {
	c.t.Helper()
	group := func() int {
		id, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
		if err != nil {
			c.t.Fatal(err)
		}
		return id
	}
	before := group()
	if _, err := tty.WriteString(text); err != nil {
		c.t.Fatal(err)
	}
	for begin := time.Now(); group() == before; time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			c.t.Fatalf("%q: no other job has the terminal", text)
		}
	}
	time.Sleep(100 * time.Millisecond) // a shell continues its job a moment later
}

func TestInterrupt(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		tty, _ := c.terminal()
		c.say(tty, "$PLASH sh -c 'echo rea''dy; exec sleep 100'\n", "ready\r\n")
		c.say(tty, "\x03", "prompt> ")
		c.say(tty, "echo code=$?\n", "code=130\r\n")

		// A program that catches it gets it once, and lives.
		script := `n=0; trap "n=\$((n+1))" INT; echo rea""dy; i=0; while [ $i -lt 100 ] && [ $n = 0 ]; do sleep 0.05; i=$((i+1)); done; sleep 0.1; exit $((40+n))`
		c.say(tty, "$PLASH sh -c '"+script+"'\n", "ready\r\n")
		c.say(tty, "\x03", "prompt> ")
		c.say(tty, "echo code=$?\n", "code=41\r\n")
		c.say(tty, "$PLASH sh -c 'echo rea''dy; exec sleep 100'\n", "ready\r\n")
		c.say(tty, "\x1c", "prompt> ")
		c.say(tty, "echo code=$?\n", "code=131\r\n")
		c.say(tty, "exit\n", "exit")
	})
}

// The programs here start no others after they have said that they are ready: a
// shell whose child is stopped within vfork(2) does not stop.
func TestSuspend(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		tty, _ := c.terminal()
		c.say(tty, "$PLASH sh -c 'echo rea''dy; read x; echo got=$x; exit 7'\n", "ready\r\n")
		for range 3 {
			c.press(tty, "\x1a", "Stopped")
			c.line(tty, "prompt> ")
			c.say(tty, "jobs -l\n", "Stopped")
			c.line(tty, "prompt> ")
			c.start(tty, "fg\n")
		}
		c.say(tty, "word\n", "got=word\r\n")
		c.line(tty, "prompt> ")
		c.say(tty, "echo code=$?\n", "code=7\r\n")

		// One that reads the terminal from the background stops too.
		c.say(tty, "$PLASH sh -c 'read x; echo got=$x' &\n", "prompt> ")
		c.say(tty, "until jobs | grep -q Stop''ped; do sleep 0.1; done; jobs\n", "Stopped")
		c.line(tty, "prompt> ")
		c.start(tty, "fg\n")
		c.say(tty, "more\n", "got=more\r\n")
		c.line(tty, "prompt> ")

		// One that ignores Ctrl-Z goes on.
		c.say(tty, "$PLASH sh -c 'trap \"\" TSTP; echo rea''dy; read x; echo got=$x'\n", "ready\r\n")
		c.say(tty, "\x1a", "^Z")
		c.say(tty, "third\n", "got=third\r\n")
		c.line(tty, "prompt> ")
		c.say(tty, "exit\n", "exit")
	})
}

func TestPipelineSuspend(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		tty, _ := c.terminal()
		c.say(tty, "$PLASH sh -c 'echo rea''dy >&2; read x </dev/tty; echo got=$x' | cat\n", "ready\r\n")
		c.say(tty, "\x1a", "Stopped")
		c.line(tty, "prompt> ")
		c.start(tty, "fg\n")
		c.say(tty, "word\n", "got=word\r\n")
		c.line(tty, "prompt> ")
		c.say(tty, "exit\n", "exit")
	})
}

func TestWindowSize(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		tty, _ := c.terminal()
		c.say(tty, `$PLASH bash -c 'trap "stty size" WINCH; stty size; i=0; while [ $i -lt 40 ]; do sleep 0.1; i=$((i+1)); done'`+"\n", "24 80\r\n")
		time.Sleep(200 * time.Millisecond)
		if err := pty.Setsize(tty, &pty.Winsize{Rows: 30, Cols: 100}); err != nil {
			t.Fatal(err)
		}
		c.line(tty, "30 100\r\n")
		if rest := c.say(tty, "\x03", "prompt> "); strings.Contains(rest, "30 100") {
			t.Error("the signal came twice")
		}
		c.say(tty, "exit\n", "exit")
	})
}

// An interactive shell inside has job control of its own.
func TestShellInside(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		tty, _ := c.terminal()
		c.say(tty, "$PLASH bash --norc --noprofile -i\n", "# ")
		c.say(tty, "PS1='inside> '\n", "inside> ")
		c.start(tty, "sleep 100\n")
		c.press(tty, "\x1a", "Stopped")
		c.line(tty, "inside> ")
		c.start(tty, "fg\n")
		c.press(tty, "\x03", "inside> ")
		c.say(tty, "echo code=$?\n", "code=130\r\n")
		c.say(tty, "exit 7\n", "prompt> ")
		c.say(tty, "echo code=$?\n", "code=7\r\n")
		c.say(tty, "exit\n", "exit")
	})
}
