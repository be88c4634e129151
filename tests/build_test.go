package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLongScript: a layer's code may be longer than one argument of a program.
func TestLongScript(t *testing.T) {
	each(t, everyone, time.Minute, func(t *testing.T) {
		words := []string{"build", "--from", needTiny(t)}
		line := strings.Repeat("0123456789abcde", 4000)
		for i := range 6 {
			words = append(words, "--write-file", fmt.Sprintf("/file%d", i), line)
		}
		id := plash(t, words...).id()
		plash(t, "run", id, "sh", "-c", "cat /file* | wc -c; echo $#").prints(fmt.Sprintf("%d\n0", 6*(len(line)+1)))
	})
}

// TestConcurrency: processes that import, build, run and remove in one data
// directory at the same time do not disturb each other.
func TestConcurrency(t *testing.T) {
	each(t, everyone, 3*time.Minute, func(t *testing.T) {
		base := needTiny(t)
		var all sync.WaitGroup
		for i := range 6 {
			all.Go(func() {
				for j := range 3 {
					text := fmt.Sprint(i, "-", j)
					id := run(t, "plash", "build", "--from", base, "--run", "echo "+text+" >/text").id()
					if got := plash(t, "run", id, "cat", "/text"); got.out != text+"\n" {
						t.Errorf("image %s: got %q %q, want %q", id, got.out, got.err, text)
					}
					plash(t, "clean").ok()
					plash(t, "rm", id).ok()
				}
			})
		}
		all.Wait()
		if list := images(t); len(list) != 2 {
			t.Errorf("images: %q", list)
		}
		noTemps(t)
	})
}

// TestKilledBuild: at whatever instant a build is killed, no half image is
// listed, and clean finds the litter.
func TestKilledBuild(t *testing.T) {
	each(t, everyone, 3*time.Minute, func(t *testing.T) {
		base := needTiny(t)
		for i := range 40 {
			p := startSilent(t, "build", base, "cp -r /bin /copy; echo whole >/whole")
			time.Sleep(time.Duration(i) * 2 * time.Millisecond)
			p.Process.Kill()
			p.Wait()
			for _, id := range images(t) {
				if id != "0" && id != base {
					plash(t, "run", id, "cat", "/whole").prints("whole")
				}
			}
		}
		eventually(t, "clean has found everything", func() bool {
			plash(t, "clean").ok()
			return len(names(t, filepath.Join(os.Getenv("PLASH_DATA"), "tmp"))) == 0
		})
		plash(t, "rm", base).ok()
		if list := images(t); len(list) != 1 {
			t.Errorf("images: %q", list)
		}
	})
}

// TestInterruptedBuild: a build that is told to end does, as plash does, and
// leaves nothing.
func TestInterruptedBuild(t *testing.T) {
	each(t, everyone, 2*time.Minute, func(t *testing.T) {
		base := needTiny(t)
		marker := filepath.Join(os.Getenv("HOME"), "marker")
		code := "echo >" + marker + "; exec sleep 1000"
		for _, words := range [][]string{
			{"build", base, code},
			{"build", "--from", base, "--run", code},
			{"--from", base, "--run", code, "--", "true"},
			{"cache", "build", base, code},
			{"do", "build", "--from", base, "--run", code},
		} {
			for _, s := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP} {
				p := startSilent(t, words...)
				eventually(t, "the build runs", func() bool { _, err := os.Stat(marker); return err == nil })
				time.Sleep(50 * time.Millisecond) // until sleep runs, see TestSignals
				os.Remove(marker)
				p.Process.Signal(s)
				timer := time.AfterFunc(20*time.Second, func() { p.Process.Kill() })
				p.Wait()
				timer.Stop()
				if status := p.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != s {
					t.Errorf("%q after %v: %v", words, s, p.ProcessState)
				}
				noTemps(t)
			}
		}
		if list := images(t); len(list) != 2 {
			t.Errorf("images: %q", list)
		}
	})
}
