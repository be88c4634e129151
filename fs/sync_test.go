package fs_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"plash/internal/usertest"
)

// A syncLog notes what the server does to make things durable, and where they
// come to, as paths below the stack's directory; a copy has a number there.
type syncLog struct {
	mu    sync.Mutex
	s     *stack
	lines []string
}

func (l *syncLog) call(c *watchedCall) bool {
	line := ""
	switch c.nr {
	case unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNCFS:
		line = "sync " + l.below(c.path())
	case unix.SYS_RENAMEAT2, unix.SYS_RENAMEAT:
		line = "rename " + l.below(c.name(0, 1)) + " " + l.below(c.name(2, 3))
	default:
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	return true
}

// below shortens a path; names in the work directory are all one.
func (l *syncLog) below(path string) string {
	path, _ = filepath.Rel(l.s.base, path)
	if dir, name := filepath.Split(path); strings.HasPrefix(name, "#") {
		return dir + "#"
	}
	return path
}

// take returns what has been noted since it was called last.
func (l *syncLog) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.lines
	l.lines = nil
	return lines
}

func syncStack(t *testing.T, volatile bool) (*stack, *syncLog) {
	s := newStack(t, 1)
	fill(t, s.lowers[0], tree("low: text", "dir/sub/deep: text", "dir/other/x", "moved/y", "kept: text"))
	l := &syncLog{s: s}
	s.onCall = l.call
	s.change = func(c *serveConfig) { c.Volatile = volatile }
	s.mount()
	l.take()
	return s, l
}

func fsync(t *testing.T, path string, call func(int) error) {
	t.Helper()
	flags := os.O_RDWR
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := call(int(f.Fd())); err != nil {
		t.Errorf("%s: %v", path, err)
	}
}

// TestSyncReachesTheDisk: what a program syncs is synced in the upper layer; a
// copy and the directories it needs are synced before they get their names
// there, as the kernel does it.
func TestSyncReachesTheDisk(t *testing.T) {
	s, log := syncStack(t, false)
	check := func(what string, want ...string) {
		t.Helper()
		if got := log.take(); !slices.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	write := func(name string, flags int) {
		t.Helper()
		f, err := os.OpenFile(s.path(name), os.O_WRONLY|flags, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString("new"); err != nil {
			t.Error(err)
		}
	}
	write("made", os.O_CREATE)
	check("create and write")
	fsync(t, s.path("made"), unix.Fsync)
	check("fsync of a file", "sync upper/made")
	fsync(t, s.path("made"), unix.Fdatasync)
	check("fdatasync", "sync upper/made")
	write("made", os.O_SYNC)
	check("a write with O_SYNC", "sync upper/made")
	fsync(t, s.mnt, unix.Fsync)
	check("fsync of the root", "sync upper")
	write("low", os.O_APPEND)
	check("copy-up", "sync work/work/#", "rename work/work/# upper/low")
	fsync(t, s.path("low"), unix.Fsync)
	check("fsync of the copy", "sync upper/low")
	if err := os.Chmod(s.path("dir/sub/deep"), 0o600); err != nil {
		t.Error(err)
	}
	check("copy-up with its parents", "sync work/work/#", "sync work/work/#", "sync work/work/#",
		"rename work/work/# upper/dir", "rename work/work/# upper/dir/sub", "rename work/work/# upper/dir/sub/deep")
	fsync(t, s.path("dir/sub"), unix.Fsync)
	check("fsync of a directory", "sync upper/dir/sub")
	if err := os.Rename(s.path("dir/sub/deep"), s.path("deep")); err != nil {
		t.Error(err)
	}
	fsync(t, s.path("deep"), unix.Fsync)
	fsync(t, s.mnt, unix.Fsync)
	check("rename and fsync", "rename upper/dir/sub/deep upper/deep", "sync upper/deep", "sync upper")
	fsync(t, s.path("kept"), unix.Fsync)
	fsync(t, s.path("dir/other"), unix.Fsync)
	check("fsync of what is not changed")
}

// TestVolatileDoesNotSync: nothing of that for an upper that is thrown away.
func TestVolatileDoesNotSync(t *testing.T) {
	s, log := syncStack(t, true)
	for _, name := range []string{"made", "low", "dir/sub/deep"} {
		if err := writeSync(s.path(name), os.O_CREATE, "new"); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "dir", "dir/sub/deep"} {
		fsync(t, s.path(name), unix.Fsync)
	}
	if err := os.Rename(s.path("moved"), s.path("away")); err != nil {
		t.Error(err)
	}
	renamed := false
	for _, line := range log.take() {
		if strings.HasPrefix(line, "sync") {
			t.Error(line)
		}
		renamed = renamed || line == "rename upper/moved upper/away"
	}
	if !renamed {
		t.Error("the calls were not watched")
	}
}

// TestTimesLast: a modification time is the same before and after a file's data has come
// to the upper and the mount is another one, also if the data was written in the tick of
// the clock in which the file was made, and came later.
func TestTimesLast(t *testing.T) {
	s := newStack(t, 1).mount()
	const files = 40
	var shown [files]time.Time
	var slow [files]bool // the data came too late, as on a busy machine
	for i := range shown {
		start := time.Now()
		path := s.path(fmt.Sprint(i))
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if i%4 == 1 { // in another tick
			time.Sleep(20 * time.Millisecond)
		}
		if _, err := f.WriteString("text"); err != nil {
			t.Fatal(err)
		}
		if i%4 == 2 {
			if err := errors.Join(f.Sync(), os.Chtimes(path, old, old)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Millisecond) // the data come later
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		shown[i] = st.ModTime()
		f.Close()
		slow[i] = time.Since(start) > 80*time.Millisecond
	}
	check := func(when, dir string) {
		t.Helper()
		for i := range shown {
			st, err := os.Stat(filepath.Join(dir, fmt.Sprint(i)))
			if err != nil {
				t.Fatal(err)
			}
			if got := st.ModTime(); got.Before(shown[i]) || got.After(shown[i]) && !slow[i] {
				t.Errorf("%s: %d is of %v, shown was %v", when, i, got, shown[i])
			}
		}
	}
	check("mounted", s.mnt)
	s.unmount()
	check("unmounted", s.upper)
	s.mount()
	check("mounted again", s.mnt)
}

// TestTimesHandedOn: the time that the kernel hands on just behind the data counts,
// whichever is answered first. As it does not in a user namespace, what it writes back by
// itself there may have a time from shortly before.
func TestTimesHandedOn(t *testing.T) {
	s := newStack(t, 1).mount()
	var end atomic.Bool
	var others sync.WaitGroup
	for k := range 2 { // for them a second reader helps
		others.Go(func() {
			for i := 0; !end.Load(); i++ {
				os.Lstat(s.path(fmt.Sprint("none", k, i)))
			}
		})
	}
	shown := map[string]time.Time{}
	for round := range 40 {
		var open [20]*os.File
		for i := range open {
			f, err := os.Create(s.path(fmt.Sprint(round, "-", i)))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			open[i] = f
		}
		time.Sleep(10 * time.Millisecond) // the next tick
		begin := time.Now()
		for _, f := range open {
			if _, err := f.WriteString("text"); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Syncfs(int(open[0].Fd())); err != nil { // which need not wait for all data
			t.Fatal(err)
		}
		times := map[string]time.Time{}
		for _, f := range open {
			st, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			times[filepath.Base(f.Name())] = st.ModTime()
			f.Close()
		}
		// What comes 100 ms after its time, a tick included, has the time of when it came.
		if time.Since(begin) < 90*time.Millisecond {
			maps.Copy(shown, times)
		}
	}
	end.Store(true)
	others.Wait()
	s.unmount()
	if len(shown) == 0 {
		t.Skip("this machine is too slow")
	}
	for name, want := range shown {
		st, err := os.Stat(filepath.Join(s.upper, name))
		if err != nil {
			t.Fatal(err)
		}
		off := want.Sub(st.ModTime())
		if off != 0 && !(usertest.Active() && off < 200*time.Millisecond) {
			t.Errorf("%s is of %v, shown was %v", name, st.ModTime(), want)
		}
	}
}

// TestTimesOfTheEnd: data that have come without their time, as after sync_file_range(2),
// are not older than they are if the server is killed or the mount taken away by force.
func TestTimesOfTheEnd(t *testing.T) {
	for how, end := range map[string]func(s *stack){
		"killed": func(s *stack) { s.server.Process.Kill() },
		"forced": func(s *stack) { unix.Unmount(s.mnt, unix.MNT_FORCE) },
	} {
		s := newStack(t, 1)
		path := filepath.Join(s.upper, "f")
		if err := errors.Join(os.WriteFile(path, []byte("old data"), 0o644), os.Chtimes(path, old, old)); err != nil {
			t.Fatal(err)
		}
		s.mount()
		f, err := os.OpenFile(s.path("f"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_, err = f.WriteString("new data")
		const all = unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
		if err = errors.Join(err, unix.SyncFileRange(int(f.Fd()), 0, 0, all)); err != nil {
			t.Fatal(err)
		}
		end(s)
		unix.Unmount(s.mnt, unix.MNT_DETACH)
		f.Close()
		s.server.Wait()
		s.server = nil
		data, err := os.ReadFile(path)
		st, err2 := os.Stat(path)
		if err = errors.Join(err, err2); err != nil || string(data) != "new data" || st.ModTime().Equal(old) {
			t.Errorf("%s: %q of %v, %v", how, data, st.ModTime(), err)
		}
	}
}
