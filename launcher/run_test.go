package launcher_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"plash/internal/tree"
	"plash/launcher"
	"plash/union"
)

func TestExitCodes(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		sp := spec{Layers: host}
		for _, test := range []struct {
			words  []string
			code   int
			signal unix.Signal
			stderr string
		}{
			{words: []string{"true"}},
			{words: []string{"sh", "-c", "exit 7"}, code: 7},
			{words: []string{"no-such-program"}, code: 127, stderr: "plash error: no-such-program: command not found\n"},
			{words: []string{"/no/such"}, code: 127, stderr: "plash error: /no/such: command not found\n"},
			{words: []string{""}, code: 127, stderr: "plash error: '': command not found\n"},
			{words: []string{"/etc/passwd"}, code: 126, stderr: "plash error: /etc/passwd: Permission denied\n"},
			{words: []string{"/etc"}, code: 126, stderr: "plash error: /etc: Permission denied\n"},
			{words: []string{"sh", "-c", "kill -9 $$"}, code: -1, signal: unix.SIGKILL},
			{words: []string{"sh", "-c", "kill -SEGV $$"}, code: -1, signal: unix.SIGSEGV},
			{words: []string{"sh", "-c", "kill -ABRT $$"}, code: -1, signal: unix.SIGABRT},
			{words: []string{"sh", "-c", "kill -INT $$"}, code: -1, signal: unix.SIGINT},
		} {
			r := c.run(sp, test.words...)
			if r.code != test.code || r.signal != test.signal || r.err != test.stderr || r.out != "" {
				t.Errorf("%q: %+v", test.words, r)
			}
		}
	})
}

func TestWordsAreNotReadAgain(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		c.want(c.run(spec{Layers: host}, "printf", "%s\n", "a  b", "$HOME *", `\n'"`, ""), "a  b\n$HOME *\n\\n'\"\n\n")
	})
}

func TestUserspaceRoot(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		c.want(c.run(spec{Layers: host}, "id", "-u"), "0\n")
		r := c.run(spec{Layers: host}, "sh", "-c", "touch /x && chown 7:8 /x && stat -c %u:%g /x")
		if c.name == "plashtest1" {
			if r.code == 0 || !strings.Contains(r.err, "Invalid argument") {
				t.Errorf("chown with one id: %+v", r)
			}
		} else {
			c.want(r, "7:8\n")
		}
		c.want(c.run(spec{View: launcher.Userspace}, "id", "-u"), "0\n")
	})
}

// A program without a shell in its image is executed directly.
func TestImageWithoutShell(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		c.static()
		root := c.layer("bin/")
		if err := copyFile(c.program, filepath.Join(root, "bin/probe")); err != nil {
			t.Fatal(err)
		}
		sp := spec{Layers: []union.Layer{{Path: root}}}
		cmd := c.command(sp, "probe", "probe")
		cmd.Dir = "/usr"
		c.want(c.do(cmd), "/ <nil>\n")
		if r := c.run(sp, "nothing"); r.code != 127 || r.err != "plash error: nothing: command not found\n" {
			t.Errorf("%+v", r)
		}
		if r := c.run(sp); r.code != 127 || r.err != "plash error: /bin/sh: command not found\n" {
			t.Errorf("login shell: %+v", r)
		}
	})
}

// layer makes a directory with the given entries, owned by the caller:
// "dir/", "link -> target" or "file".
func (c *caller) layer(entries ...string) string {
	c.t.Helper()
	root, err := os.MkdirTemp(c.dir, "layer")
	if err == nil {
		err = os.Chmod(root, 0o755)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	paths := []string{root}
	for _, entry := range entries {
		name, link, isLink := strings.Cut(entry, " -> ")
		path := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		switch {
		case err != nil:
		case isLink:
			err = os.Symlink(link, path)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		default:
			err = os.WriteFile(path, nil, 0o644)
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
	filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	})
	for _, path := range paths {
		if err := os.Lchown(path, c.uid, c.gid); err != nil {
			c.t.Fatal(err)
		}
	}
	return root
}

func TestEnvironmentAndDirectory(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		sp := spec{Layers: host}
		script := `echo "$_HOST_FOO $FOO $HOME $USER $TERM $PLASH_DATA $PWD"`
		c.want(c.run(sp, "sh", "-c", script), "bar  "+c.dir+" root dumb "+c.dir+"/data "+c.dir+"\n")

		// In a build the host's /tmp is seen at /mnt only.
		sp.Build = true
		cmd := c.command(sp, "sh", "-c", `echo "$PLASH_DATA $DEBIAN_FRONTEND $PIP_BREAK_SYSTEM_PACKAGES"`)
		cmd.Env = append(cmd.Env, "HOME=/usr")
		r := c.do(cmd)
		if first, _, _ := strings.Cut(r.out, "\n"); first != "/mnt"+c.dir+"/data noninteractive 1" {
			t.Errorf("build: %+v", r)
		}
	})
}

// Descriptors and limits of the caller are the program's.
func TestInheritance(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		w.WriteString("through the pipe")
		w.Close()
		cmd := c.command(spec{Layers: host}, "sh", "-c", "cat <&3; ulimit -n")
		cmd.Args = append([]string{"sh", "-c", `ulimit -S -n 99; exec "$@"`, "sh"}, cmd.Args...)
		cmd.Path = "/bin/sh"
		cmd.ExtraFiles = []*os.File{r}
		c.want(c.do(cmd), "through the pipe99\n")
		r.Close()

		// And no others are.
		direct := c.do(c.shell("sh", "-c", "echo /proc/self/fd/*"))
		c.want(c.run(spec{Layers: host}, "sh", "-c", "echo /proc/self/fd/*"), direct.out)
	})
}

func TestNothingMadeForBindsStays(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		image := c.layer("bin/", "etc/resolv.conf -> /no/where", "var/roothome/", "home -> var/home", "tmp/")
		if err := copyFile("/bin/true", filepath.Join(image, "bin/x")); err != nil {
			t.Fatal(err)
		}
		// Whiteouts and opaque directories of a layer hide what lies below
		// them, and must not hide the targets.
		above := c.layer("etc/")
		if err := unix.Lsetxattr(filepath.Join(above, "etc"), "user.overlay.opaque", []byte("y"), 0); err != nil {
			t.Skip("no extended attributes in /tmp:", err)
		}
		src := c.layer("file", "dir/inside")
		if err := os.WriteFile(filepath.Join(src, "file"), []byte("seen"), 0o644); err != nil {
			t.Fatal(err)
		}
		sp := spec{
			Layers: []union.Layer{{Path: above}, {Path: image}},
			Binds: []launcher.Bind{
				{Src: filepath.Join(src, "file"), Dst: "/new/deep/file"},
				{Src: filepath.Join(src, "dir"), Dst: "/new/dir"},
				// The host's shell, to look around with.
				{Src: "/usr", Dst: "/usr", ReadOnly: true}, {Src: "/lib", Dst: "/lib"}, {Src: "/lib64", Dst: "/lib64"}, {Src: "/bin/sh", Dst: "/bin/sh"},
			},
			Build: true,
		}
		script := `export PATH=/usr/bin:/bin
cat /new/deep/file; ls /new/dir; cmp /etc/hosts /mnt/etc/hosts; cmp /etc/resolv.conf /mnt/etc/resolv.conf; ls -d /home/` + filepath.Base(c.homes()) + `
touch /usr/x 2>/dev/null && echo written; exit 3`
		r := c.run(sp, "/bin/sh", "-c", script)
		if r.code != 3 || !strings.HasPrefix(r.out, "seen"+"inside\n/home/"+filepath.Base(c.homes())+"\nchanges: ") || r.err != "" {
			t.Errorf("%+v", r)
		}
		if _, list, _ := strings.Cut(r.out, "changes: "); strings.Count(list, "\n") != 1 {
			t.Errorf("made for a bind: %s", list)
		}
		// What the program itself writes beside a target is in the layer, and
		// the directory looks as in the image.
		if err := os.Chmod(filepath.Join(above, "etc"), 0o751); err != nil {
			t.Fatal(err)
		}
		r = c.run(sp, "/bin/sh", "-c", "PATH=/usr/bin; stat -c %a /etc; >/etc/mine; exit 3")
		if !strings.HasPrefix(r.out, "751\n") || !strings.HasSuffix(r.out, "\netc\netc/mine\n") || r.err != "" {
			t.Errorf("%+v", r)
		}
	})
}

// homes returns some directory in the host's /home, or one that is not there.
func (c *caller) homes() string {
	entries, _ := os.ReadDir("/home")
	if len(entries) == 0 {
		c.t.Skip("nothing in /home")
	}
	return entries[0].Name()
}

func TestChroot(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		c.static()
		root := c.layer("bin/", "etc/resolv.conf -> /no/where")
		if err := copyFile(c.program, filepath.Join(root, "bin/probe")); err != nil {
			t.Fatal(err)
		}
		c.want(c.run(spec{Dir: root}, "probe", "probe"), c.dir+" <nil>\n")
		if link, _ := os.Readlink(filepath.Join(root, "etc/resolv.conf")); link != "/no/where" {
			t.Error("the directory's link was replaced")
		}
		r := c.run(spec{Dir: filepath.Join(root, "none")}, "true")
		if r.code != 1 || r.err != "plash error: "+root+"/none: No such file or directory\n" {
			t.Errorf("%+v", r)
		}
	})
}

func TestPersistentChanges(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		changes := c.layer()
		sp := spec{Layers: host, Changes: changes}
		c.want(c.run(sp, "sh", "-c", "echo kept >/kept"), "")
		c.want(c.run(sp, "cat", "/kept"), "kept\n")

		cmd := c.command(sp, "sh", "-c", "echo ready; exec sleep 100")
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		c.line(out, "ready\n")
		r := c.run(sp, "true")
		if r.code != 1 || !strings.Contains(r.err, "changes directory in use") || strings.Count(r.err, "\n") != 1 {
			t.Errorf("second user: %+v", r)
		}
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
		c.want(c.run(sp, "cat", "/kept"), "kept\n")
	})
}

func TestBackgroundProcessGoesOn(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		script := `(trap "" HUP; while [ ! -e ` + c.dir + `/go ]; do sleep 0.05; done; cat /etc/passwd >/copy && wc -l </copy >` + c.dir + `/done) >/dev/null 2>&1 </dev/null &`
		begin := time.Now()
		c.want(c.run(spec{Layers: host}, "sh", "-c", script), "")
		if time.Since(begin) > 5*time.Second {
			t.Error("the run waited for its background process")
		}
		temps, _ := filepath.Glob(filepath.Join(c.dir, "data/tmp/*"))
		if len(temps) != 1 {
			t.Errorf("temporary directories: %q", temps)
		}
		if err := os.WriteFile(filepath.Join(c.dir, "go"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		c.eventually("the background process did not work", func() bool {
			text, err := os.ReadFile(filepath.Join(c.dir, "done"))
			return err == nil && len(text) > 0
		})
	})
}

func TestBuildEndsLeftovers(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		script := `trap "" HUP TERM; (setsid sh -c 'trap "" TERM; while :; do echo >>/growing; sleep 0.01; done' & ) >/dev/null 2>&1 </dev/null; sleep 0.1; echo $$ >/made`
		r := c.run(spec{Layers: host, Build: true}, "sh", "-c", script)
		if r.code != 0 || r.err != "" || !strings.Contains(r.out, "made\n") {
			t.Errorf("%+v", r)
		}
	})
}

func TestKilledServer(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		cmd := c.command(spec{Layers: host}, "sh", "-c", "echo ready; sleep 100")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		stderr, _ := cmd.StderrPipe()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		c.line(out, "ready\n")
		killed := false
		for _, pid := range c.processes() {
			name, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
			if strings.HasPrefix(string(name), "plash: file system server") {
				unix.Kill(pid, unix.SIGKILL)
				killed = true
			}
		}
		if !killed {
			t.Error("no server found")
		}
		c.line(stderr, "plash error: the file system server died\n")
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 1 {
			t.Error("exit code", code)
		}
	})
}

func TestKilledLauncher(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		cmd := c.command(spec{Layers: host}, "sh", "-c", "echo $$; exec sleep 1000")
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		pid, _ := strconv.Atoi(strings.TrimSpace(c.line(out, "\n")))
		cmd.Process.Kill()
		cmd.Wait()
		c.eventually("the program lives on", func() bool { return unix.Kill(pid, 0) == unix.ESRCH })
	})
}

// Whoever is killed while a container is being started, and at whatever instant,
// the others end.
func TestKilledWhileStarting(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		for i := range 60 {
			cmd := c.command(spec{Layers: host}, "sleep", "100")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			time.Sleep(time.Duration(i) * 500 * time.Microsecond)
			victims := c.processes()
			if i%2 == 0 {
				victims = slices.DeleteFunc(victims, func(pid int) bool { return pid == cmd.Process.Pid })
			} else {
				victims = []int{cmd.Process.Pid}
			}
			for _, pid := range victims {
				unix.Kill(pid, unix.SIGKILL)
			}
			if len(victims) == 0 {
				// It was started too late to be killed; or so early that it is
				// not one of the processes yet.
				cmd.Process.Signal(unix.SIGTERM)
			}
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				t.Fatalf("plash goes on after %d half milliseconds and the end of %v", i, victims)
			}
			c.eventually("processes are left", func() bool { return len(c.processes()) == 0 })
		}
		// What is not in use any more plash clean would remove.
		tree.Remove(filepath.Join(c.dir, "data/tmp"))
	})
}

// A signal that comes while the container is being started ends plash, or is the
// program's when that is there.
func TestSignalWhileStarting(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		for i := range 30 {
			cmd := c.command(spec{Layers: host}, "sleep", "100")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(i) * time.Millisecond)
			cmd.Process.Signal(unix.SIGTERM)
			cmd.Wait()
			if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != unix.SIGTERM {
				t.Errorf("after %d ms: %v", i, cmd.ProcessState)
			}
		}
		c.eventually("processes are left", func() bool { return len(c.processes()) == 0 })
		tree.Remove(filepath.Join(c.dir, "data/tmp"))
	})
}

func TestSignalsAreForwarded(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		const rtmin1, rtmax = unix.Signal(35), unix.Signal(64)
		for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM,
			unix.SIGABRT, unix.SIGTRAP, unix.SIGSYS, unix.SIGSTKFLT, unix.SIGIO, unix.SIGPWR, unix.SIGVTALRM, unix.SIGXCPU, unix.SIGXFSZ, rtmin1, rtmax} {
			// The program may do with it what it likes, once.
			cmd := c.command(spec{Layers: host}, "sh", "-c", `n=0; trap 'n=$((n+1))' `+strconv.Itoa(int(s))+`; echo ready; i=0; while [ $i -lt 100 ] && [ $n = 0 ]; do sleep 0.02; i=$((i+1)); done; sleep 0.05; exit $((40+n))`)
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			c.line(out, "ready\n")
			cmd.Process.Signal(s)
			cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != 41 {
				t.Errorf("%v: exit code %d, %v", s, code, cmd.ProcessState)
			}
		}
		// One that it does not catch ends both.
		cmd := c.command(spec{Layers: host}, "sh", "-c", "echo ready; exec sleep 100")
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		c.line(out, "ready\n")
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
		if ws := cmd.ProcessState.Sys().(interface{ Signal() unix.Signal }); ws.Signal() != unix.SIGTERM {
			t.Error(cmd.ProcessState)
		}
	})
}

func TestClosedPipe(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := c.command(spec{Layers: host}, "yes")
		cmd.Stdout = w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		c.line(r, "y\n")
		r.Close()
		cmd.Wait()
		if ws := cmd.ProcessState.Sys().(interface{ Signal() unix.Signal }); ws.Signal() != unix.SIGPIPE {
			t.Error(cmd.ProcessState)
		}
	})
}

// Nobody but the program holds its standard output: a reader sees its end.
func TestStandardOutputEnds(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		script := `sleep 100 >/dev/null 2>&1 </dev/null & echo $!`
		begin := time.Now()
		r := c.run(spec{Layers: host}, "sh", "-c", script)
		if time.Since(begin) > 10*time.Second {
			t.Error("it did not end")
		}
		pid, _ := strconv.Atoi(strings.TrimSpace(r.out))
		unix.Kill(pid, unix.SIGKILL)
	})
}

func TestNesting(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		sp := c.spec(spec{Layers: host, Data: filepath.Join(c.dir, "data")})
		again := []string{c.program, "plash", sp}
		words := append(append(again, again...), "sh", "-c", "id -u; head -1 /proc/self/mountinfo; exit 7")
		r := c.run(spec{Layers: host}, words...)
		if r.code != 7 || !strings.HasPrefix(r.out, "0\n") || !strings.Contains(r.out, " / / rw") || !strings.Contains(r.out, "fuse.plash") || r.err != "" {
			t.Errorf("%+v", r)
		}
	})
}

func TestReenter(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		r := c.run(spec{Reenter: true}, "-c", "id -u; exit 7")
		if r.out != "0\n" || r.code != 7 || r.err != "" {
			t.Errorf("%+v", r)
		}
		if r := c.run(spec{Reenter: true}, "-c", "kill -15 $$"); r.signal != unix.SIGTERM {
			t.Errorf("%+v", r)
		}
	})
}

func TestHostView(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		image := c.layer("hello")
		sp := spec{Layers: []union.Layer{{Path: image}}, View: launcher.Host}
		c.want(c.run(sp, "sh", "-c", "ls; echo $FOO; test -d /proc/self"), "hello\nbar\n")
		if r := c.run(sp, "touch", "x"); r.code != 1 || !strings.Contains(r.err, "Read-only file system") {
			t.Errorf("%+v", r)
		}
	})
}

// firstSubordinate returns plashtest's first subordinate id in file; see subuid(5).
func firstSubordinate(t *testing.T, file string) int {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, ids, _ := strings.Cut("\n"+string(text), "\nplashtest:")
	first, _, _ := strings.Cut(ids, ":")
	id, err := strconv.Atoi(first)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return id
}

func TestMount(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		image := c.layer("hello", "dir/")
		private := c.name == "plashtest" && os.Geteuid() == 0
		if private {
			// A file that only his subordinate ids may read.
			file := filepath.Join(image, "private")
			if err := os.WriteFile(file, []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(file, firstSubordinate(t, "/etc/subuid")+6, firstSubordinate(t, "/etc/subgid")+6); err != nil {
				t.Fatal(err)
			}
		}
		changes, point := c.layer(), c.layer()
		sp := spec{Layers: []union.Layer{{Path: image}}, Mount: true}
		c.want(c.run(sp, point), "mounted\n")
		c.want(c.do(c.shell("ls", point+"/dir", point+"/hello")), point+"/hello\n\n"+point+"/dir:\n")
		if private {
			c.want(c.do(c.shell("cat", point+"/private")), "secret")
		}
		if r := c.do(c.shell("touch", point+"/x")); r.code == 0 {
			t.Error("a mount without changes directory can be written")
		}
		c.want(c.run(spec{Unmount: true}, point), "")
		c.nothingLeft()

		sp.Changes = changes
		c.want(c.run(sp, point), "mounted\n")
		c.want(c.do(c.shell("sh", "-c", "echo new >"+point+"/new; mkdir "+point+"/dir/sub")), "")
		c.want(c.do(c.shell("stat", "-c", "%u", point+"/new")), strconv.Itoa(c.uid)+"\n")
		if r := c.run(spec{Unmount: true}, c.dir); r.code != 1 || !strings.Contains(r.err, "not ") {
			t.Errorf("unmounting what is not mounted: %+v", r)
		}
		c.want(c.run(spec{Unmount: true}, point), "")
		c.nothingLeft()
		if text, err := os.ReadFile(filepath.Join(changes, "data/new")); string(text) != "new\n" {
			t.Errorf("%q, %v", text, err)
		}
		r := c.run(sp, filepath.Join(c.dir, "none"))
		if r.code != 1 || r.err != "plash error: "+c.dir+"/none: No such file or directory\n" {
			t.Errorf("%+v", r)
		}
	})
}

func TestErrorsOfTheServer(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		none := filepath.Join(c.dir, "none")
		r := c.run(spec{Layers: []union.Layer{{Path: none}}}, "true")
		if r.code != 1 || r.err != "plash error: "+none+": No such file or directory\n" {
			t.Errorf("%+v", r)
		}
	})
}

// Without /dev/fuse there is one line that says what would help.
func TestNoDevice(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		hide := `mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3 2>/dev/null || : >/dev/null; exec "$@"`
		if c.uid != 0 {
			t.Skip("only root can hide it")
		}
		cmd := c.command(spec{Layers: host}, "true")
		cmd.Args = append([]string{"unshare", "-m", "sh", "-c", hide, "sh"}, cmd.Args...)
		cmd.Path = "/usr/bin/unshare"
		r := c.do(cmd)
		if r.code != 1 || !strings.HasPrefix(r.err, "plash error: /dev/fuse: No such file or directory (try: ") || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%+v", r)
		}
	})
}

func TestNoNamespaces(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		cmd := c.command(spec{Layers: host}, "sh", "-c", "head -1 /proc/self/mountinfo; ls -d /proc/self/; readlink /proc/self/ns/mnt")
		cmd.Env = append(cmd.Env, "PLASH_NO_UNSHARE=1", "TMPDIR="+c.dir)
		r := c.do(cmd)
		if c.uid != 0 {
			if r.code != 1 || !strings.HasPrefix(r.err, "plash error: PLASH_NO_UNSHARE: ") {
				t.Errorf("%+v", r)
			}
			return
		}
		namespace, _ := os.Readlink("/proc/self/ns/mnt")
		if r.code != 0 || r.err != "" || !strings.Contains(r.out, "fuse.plash") || !strings.HasSuffix(r.out, namespace+"\n") {
			t.Errorf("%+v", r)
		}
		if left, _ := filepath.Glob(filepath.Join(c.dir, "plash[0-9]*")); len(left) != 0 {
			t.Errorf("left: %q", left)
		}
	})
}

// As process 1 there is nobody to finish for it, and no signal ends it.
func TestProcessOne(t *testing.T) {
	asEach(t, func(t *testing.T, c *caller) {
		for _, proc := range []string{"--mount-proc", "--"} { // its own /proc, or the one around it
			unshare := []string{"unshare", "-Urpf", proc}
			if c.uid == 0 {
				unshare[1] = "-pf"
			}
			words := append(unshare, c.program, "plash", c.spec(spec{Layers: host}))
			if r := c.do(c.shell(append(words, "sh", "-c", "sleep 100 & exit 7")...)); r.code != 7 || r.err != "" {
				t.Errorf("%s: %+v", proc, r)
			}
			if r := c.do(c.shell(append(words, "sh", "-c", "kill -TERM $$")...)); r.code != 128+15 || r.err != "" {
				t.Errorf("%s: %+v", proc, r)
			}
		}
	})
}
