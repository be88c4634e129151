package tests

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"plash/internal/lxctest"
)

// runapp is the plashfile that the manual shows, and yapf one that the
// original's did, both with Debian.
const (
	runapp = `#!/usr/bin/env plash
--from debian:bookworm
--apt python3-pip
--layer
--hash-path ./requirements.txt
--run
pip3 install -r ./requirements.txt

--entrypoint
python3 app.py
`
	yapf = `#!/usr/bin/env plash
--from debian:bookworm
--apt python3-pip
--layer
--pip3 yapf==0.32.0
--entrypoint yapf
`
)

// TestDocumentedScripts: what people do with plashfiles and macros, on a Debian
// from an image server.
func TestDocumentedScripts(t *testing.T) {
	if !inChild() {
		if shown := "    " + strings.ReplaceAll(strings.ReplaceAll(runapp, "\n", "\n    "), "    \n", "\n"); !strings.Contains(readFile(t, "../README.md"), strings.TrimSpace(shown)) {
			t.Error("README.md shows another plashfile than the one that is tested")
		}
		needApt(t)
		makeDebian(t)
		needPip(t)
	}
	each(t, []kind{root, ordinary}, 15*time.Minute, func(t *testing.T) {
		archive, err := os.ReadFile(debianArchive())
		if err != nil {
			t.Fatal(err)
		}
		s := lxctest.New(t)
		s.Add("debian:bookworm:"+runtime.GOARCH+":default", "20260929_05:24", archive, "12")
		t.Setenv("PLASH_LXC_SERVER", s.URL)
		t.Setenv("PLASH_LXC_KEYRING", "")
		// Builds do not see /tmp, but the home.
		home := os.Getenv("HOME")
		write := func(name, text string) {
			t.Helper()
			name = filepath.Join(home, name)
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}

		// A tool of another system in PATH.
		write("devtools/yapf", yapf)
		t.Setenv("PATH", filepath.Join(home, "devtools")+":"+os.Getenv("PATH"))
		t.Chdir(home)
		ugly := func() io.Reader { return strings.NewReader("x  =  [ 1,2 ]\n") }
		runWith(t, ugly(), "yapf").prints("x = [1, 2]")
		write("file.py", "def f( x ):\n  return(x)\n")
		run(t, "yapf", "-i", "--style", "pep8", "file.py").prints("")
		if got := readFile(t, "file.py"); got != "def f(x):\n    return (x)\n" {
			t.Errorf("yapf has made %q", got)
		}
		s.Trouble(nil) // counts anew
		if r := runWith(t, ugly(), "yapf"); r.ok() != "x = [1, 2]" || r.err != "" || len(s.Requests()) != 0 {
			r.fatal("the same without a word or a download")
		}

		// A project's own environment, which is built when its requirements change.
		write("project/runapp", runapp)
		write("project/app.py", "import six, sys\nprint(six.__version__, *sys.argv[1:])\n")
		write("project/requirements.txt", "six==1.15.0\n")
		t.Chdir(filepath.Join(home, "project"))
		for _, c := range []struct{ requirements, prints string }{
			{"six==1.15.0\n", "1.15.0 a b"},
			{"six==1.16.0\n", "1.16.0 a b"},
		} {
			write("project/requirements.txt", c.requirements)
			if r := run(t, "./runapp", "a", "b"); r.ok() != c.prints || !strings.Contains(r.err, "--> pip3 install") || strings.Contains(r.err, "--> apt-get") {
				r.fatal("to build the upper layer, and " + c.prints)
			}
			write("project/app.py", "import six, sys\nprint(six.__version__, *sys.argv[1:]) # "+c.prints+"\n")
			if r := run(t, "./runapp", "a", "b"); r.ok() != c.prints || r.err != "" {
				r.fatal("to build nothing, and " + c.prints)
			}
		}

		if _, err := exec.LookPath("Xvfb"); err != nil {
			t.Log("no Xvfb on this machine, tests/setup.sh installs it: no window is shown")
		} else {
			showWindow(t)
		}
		noTemps(t)
	})
}

// needPip skips the test on a machine where pip finds no packages.
func needPip(t *testing.T) {
	t.Helper()
	var out []byte
	var err error
	for range 3 {
		download := exec.Command("python3", "-m", "pip", "download", "--quiet", "--no-deps", "--dest", t.TempDir(), "six==1.16.0")
		if out, err = download.CombinedOutput(); err == nil {
			return
		}
	}
	t.Skipf("pip downloads nothing on this machine: %v: %s", err, out)
}

// showWindow lets a program in a container show its window on an X server
// outside, and ends it.
func showWindow(t *testing.T) {
	t.Helper()
	dir := writable(t)
	number, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer number.Close()
	server := exec.Command("Xvfb", "-displayfd", "3", "-screen", "0", "400x300x24", "-nolisten", "tcp", "-fbdir", dir)
	server.ExtraFiles = []*os.File{w}
	err = server.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		server.Process.Kill()
		server.Wait()
	}()
	var display int
	if _, err := fmt.Fscan(number, &display); err != nil {
		t.Fatalf("Xvfb: %v", err)
	}
	screen := filepath.Join(dir, "Xvfb_screen0")
	white := []byte{0xff, 0xff, 0xff}
	if n := strings.Count(readFile(t, screen), string(white)); n != 0 {
		t.Fatalf("an empty screen with %d white pixels", n)
	}
	t.Setenv("DISPLAY", fmt.Sprintf(":%d", display))
	// Built before, so that what follows is short.
	plash(t, "build", "--from", "debian:bookworm", "--apt", "x11-apps").id()
	var errs bytes.Buffer
	eyes := exec.Command("plash", "--from", "debian:bookworm", "--apt", "x11-apps", "--", "xeyes")
	eyes.Stderr = &errs
	if err := eyes.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		eyes.Process.Signal(os.Interrupt)
		eyes.Wait()
		if t.Failed() {
			t.Logf("xeyes: %s", &errs)
		}
	}()
	eventually(t, "there are eyes on the screen", func() bool {
		return strings.Count(readFile(t, screen), string(white)) > 1000
	})
}
