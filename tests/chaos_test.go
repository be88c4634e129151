package tests

import (
	"bytes"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// chaosScale is how long TestChaos goes on for each kind of user and how many
// processes it has at a time: 50 if $PLASH_TEST_CHAOS says how long, such as
// 5m.
func chaosScale(t *testing.T) (limit time.Duration, processes int) {
	text := os.Getenv("PLASH_TEST_CHAOS")
	if text == "" {
		return 4 * time.Second, 6
	}
	limit, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return limit, 50
}

// TestChaos: processes build, run, remove, shrink and clean at random in one
// data directory, and some of them are killed. Each does its work or says that
// the image is gone or in use; an image never shows anything but what was
// built; and what is left in the end is a valid store and nothing besides.
func TestChaos(t *testing.T) {
	limit, processes := chaosScale(t)
	each(t, []kind{root, ordinary}, limit+2*time.Minute, func(t *testing.T) {
		tiny := needTiny(t)
		base := plash(t, "build", tiny, "echo base >/text; mkdir /dir").id()
		c := &chaos{t: t, base: base, made: map[string]bool{tiny: true, base: true}, texts: map[string]string{base: "base"}}
		// What this uses stays, whatever the others do.
		holder := start(t, "run", c.base, "sh", "-c", "echo ready; exec sleep 1000000")
		end := time.Now().Add(limit)
		var all sync.WaitGroup
		for range processes {
			all.Go(func() {
				for time.Now().Before(end) && !t.Failed() {
					c.step()
				}
			})
		}
		all.Wait()
		holder.cmd.Process.Signal(unix.SIGTERM)
		holder.wait()
		t.Logf("%d commands, %d images", c.commands.Load(), len(c.made))
		c.check()
	})
}

type chaos struct {
	t    *testing.T
	base string

	commands atomic.Int64
	unknown  atomic.Int64 // commands that may have made an image before they failed

	mu    sync.Mutex
	made  map[string]bool   // the ids of all images
	texts map[string]string // what is in /text of which image
}

// What a command may say last, why it did not do its work.
var excuses = regexp.MustCompile(`(?m)^plash error: (--from: |)(no image: [0-9]+|[0-9]+: image in use|no image in this session)\n\z`)

// step runs one command.
func (c *chaos) step() {
	id, text := c.pick()
	switch n := rand.IntN(100); {
	case n < 25:
		c.build(text, "build", id)
	case n < 30:
		c.build(text, "build", "--from", id)
	case n < 35: // of few words, so that it is there sometimes
		c.makes("cache", "build", id, "sh", "-c", "echo hi >/cached; cat /text")
	case n < 38:
		c.makes("check", id, "/etc/passwd")
	case n < 40:
		c.plash("recall", "id")
	case n < 60:
		if out, ok := c.plash("run", id, "cat", "/text"); ok && text != "" && out != text+"\n" {
			c.t.Errorf("/text of image %s: got %q, want %q", id, out, text)
		}
	case n < 68:
		if out, ok := c.plash("rm", id); ok && (id == c.base || out != "") {
			c.t.Errorf("rm %s, printed %q", id, out)
		}
	case n < 70:
		c.plash("shrink")
	case n < 78:
		c.plash("clean")
	case n < 82:
		c.plash("map", "key", id)
	case n < 84:
		c.plash("ls", "--json")
	case n < 86:
		c.plash("diff", id)
	case n < 88:
		c.plash("push:tarfile", id, "/dev/null")
	case n < 90:
		c.kill("cache", "build", id, "echo y >/y; cat /text")
	case n < 94:
		c.kill("build", id, "echo x >/x; cat /text")
	default:
		c.kill("run", id, "sh", "-c", "echo x >/x; cat /text; sleep 0.02")
	}
}

// pick returns an image that is there, or was a moment ago, and what is known
// to be in its /text.
func (c *chaos) pick() (id, text string) {
	entries, err := os.ReadDir(filepath.Join(os.Getenv("PLASH_DATA"), "index"))
	if err != nil {
		c.t.Error(err)
		return c.base, ""
	}
	id = entries[rand.IntN(len(entries))].Name()
	if id == "0" || id == "1" { // which have no /text
		id = c.base
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return id, c.texts[id]
}

// plash runs plash, and demands success or a good excuse.
func (c *chaos) plash(words ...string) (out string, ok bool) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command("plash", words...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	c.commands.Add(1)
	if err == nil {
		return stdout.String(), true
	}
	if cmd.ProcessState.ExitCode() != 1 || !excuses.Match(stderr.Bytes()) {
		c.t.Errorf("%q: %v\nstdout: %s\nstderr: %s", words, err, &stdout, &stderr)
	}
	return "", false
}

// build makes an image in whose /text is one line more than before.
func (c *chaos) build(before string, words ...string) {
	line := strconv.FormatUint(rand.Uint64(), 36)
	script := "echo " + line + " >>/text; mkdir -p /dir; mv /dir /dir" + line
	if words[1] == "--from" {
		words = append(words, "--run", script)
	} else {
		words = append(words, "sh", "-c", script)
	}
	if id := c.makes(words...); id != "" && before != "" {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.texts[id] = before + "\n" + line
	}
}

// makes runs plash for the id of an image.
func (c *chaos) makes(words ...string) (id string) {
	out, ok := c.plash(words...)
	if !ok {
		c.unknown.Add(1)
		return ""
	}
	id = strings.TrimSuffix(out, "\n")
	if _, err := strconv.Atoi(id); err != nil {
		c.t.Errorf("%q printed %q", words, out)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made[id] = true
	return id
}

// kill runs plash and kills it after a moment, or asks it to end.
func (c *chaos) kill(words ...string) {
	cmd := exec.Command("plash", words...)
	if err := cmd.Start(); err != nil {
		c.t.Error(err)
		return
	}
	time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
	s := unix.SIGKILL
	if rand.IntN(2) == 0 {
		s = unix.SIGTERM
	}
	cmd.Process.Signal(s)
	cmd.Wait()
	c.commands.Add(1)
	c.unknown.Add(1)
}

// check looks at what is left when all have ended.
func (c *chaos) check() {
	data := os.Getenv("PLASH_DATA")
	eventually(c.t, "clean has found everything", func() bool {
		plash(c.t, "clean").ok()
		return len(names(c.t, filepath.Join(data, "tmp"))) == 0
	})
	indexed := map[string]bool{}
	for _, dir := range []string{"index", "map"} {
		for _, name := range names(c.t, filepath.Join(data, dir)) {
			node, err := filepath.EvalSymlinks(filepath.Join(data, dir, name))
			if err == nil {
				_, err = os.Stat(filepath.Join(node, "_data/root"))
			}
			if err != nil {
				c.t.Errorf("%s/%s: %v", dir, name, err)
			}
			if dir == "index" {
				indexed[node] = true
			}
		}
	}
	most := 0
	err := filepath.WalkDir(filepath.Join(data, "layer"), func(path string, e fs.DirEntry, err error) error {
		if e.Name() == "_data" {
			return fs.SkipDir
		}
		id, no := strconv.Atoi(e.Name())
		if no == nil {
			most = max(most, id)
		}
		if no == nil && !indexed[path] || no != nil && e.Name() != "layer" {
			c.t.Errorf("%s is no image", path)
		}
		return err
	})
	if err != nil {
		c.t.Error(err)
	}
	// Each id was given to one image.
	counter, err := os.Stat(filepath.Join(data, "id_counter"))
	if err != nil {
		c.t.Fatal(err)
	}
	made, unknown := len(c.made), int(c.unknown.Load())
	if n := int(counter.Size()); n < most || n < made || n > made+unknown {
		c.t.Errorf("the last id is %d, the highest %d; %d images are known, and %d commands that may have made one", n, most, made, unknown)
	}
	list := images(c.t)
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for _, id := range list[:min(len(list), 20)] {
		if text := c.texts[id]; text != "" {
			plash(c.t, "run", id, "cat", "/text").prints(text)
		}
	}
	noTemps(c.t)
}

// TestPurgeWhileBusy: a purge removes all or, while something is used, nothing;
// what others do meanwhile works or says what is missing.
func TestPurgeWhileBusy(t *testing.T) {
	each(t, []kind{root, ordinary}, 2*time.Minute, func(t *testing.T) {
		if _, err := os.Stat(tiny); err != nil {
			t.Skip("no static busybox on this machine: tests/setup.sh installs it")
		}
		data := os.Getenv("PLASH_DATA")
		// An import names its archive, too.
		excuse := regexp.MustCompile(`(?m)^plash error: (` + tiny + `: )?(no image: [0-9]+|` + data + `(/\S+)?: No such file or directory)( \(no images yet: .*\))?\n\z`)
		end := time.Now().Add(4 * time.Second)
		var all sync.WaitGroup
		var worked atomic.Int64
		for range 2 {
			all.Go(func() {
				for time.Now().Before(end) && !t.Failed() {
					time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
					id := ""
					for _, words := range [][]string{{"pull:tarfile", tiny}, {"build", "ID", "echo built >/built"}, {"run", "ID", "cat", "/built"}} {
						if words[0] != "pull:tarfile" {
							words[1] = id
						}
						r := plash(t, words...)
						if !r.state.Success() {
							if !excuse.MatchString(r.err) {
								t.Errorf("%q: %v\n%s", words, r.state, r.err)
							}
							break
						}
						id = strings.TrimSuffix(r.out, "\n")
						if words[0] == "run" {
							worked.Add(1)
						}
					}
				}
			})
		}
		purged := 0
		for time.Now().Before(end) {
			time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
			r := plash(t, "purge", "--yes")
			switch {
			case r.state.Success():
				purged++
			case !strings.Contains(r.err, "in use\n") && !excuse.MatchString(r.err):
				t.Errorf("purge: %v\n%s", r.state, r.err)
			}
		}
		all.Wait()
		t.Logf("purged %d times; %d runs", purged, worked.Load())
		plash(t, "init").ok()
		plash(t, "purge", "--yes").ok()
		if left := names(t, data); len(left) != 0 {
			t.Errorf("left: %q", left)
		}
	})
}
