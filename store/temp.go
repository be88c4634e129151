package store

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/internal/procs"
	"plash/internal/tree"
)

const tempPrefix = "plashtmp_"

// A Temp is a temporary directory in tmp/, in use as long as a descriptor of
// its lock is open in any process.
type Temp struct {
	Path string
	lock *os.File
}

// MkTemp makes a directory in tmp/ that is in use as long as the process pid
// lives; sid is that process's session. It may become an image's root, so all
// users may enter it.
func (s *Store) MkTemp(sid, pid int) (string, error) {
	return s.mkTemp(sid, pid, 0755)
}

func (s *Store) mkTemp(sid, pid int, mode os.FileMode) (string, error) {
	path, err := os.MkdirTemp(s.path("tmp"), fmt.Sprintf("%s%d_%d_", tempPrefix, sid, pid))
	if err == nil {
		err = os.Chmod(path, mode)
	}
	return path, errs.Path(s.path("tmp"), err)
}

// TempDir makes a directory in tmp/ and locks it.
func (s *Store) TempDir() (*Temp, error) {
	sid, err := unix.Getsid(0)
	if err != nil {
		return nil, errs.Path(s.path("tmp"), err)
	}
	path, err := s.mkTemp(sid, os.Getpid(), 0700)
	if err != nil {
		return nil, err
	}
	// Clean does not take it in between, because this process lives.
	lock, err := lockIfFree(path)
	if err != nil {
		os.Remove(path)
		return nil, errs.Path(path, err)
	}
	return &Temp{path, lock}, nil
}

// AdoptTemp is for a process that inherited File: the same directory, in use
// as long as that is open.
func AdoptTemp(path string, lock *os.File) *Temp { return &Temp{path, lock} }

// File returns the locked descriptor, to be inherited by processes that use
// the directory.
func (t *Temp) File() *os.File { return t.lock }

// Remove removes the directory and gives its lock back.
func (t *Temp) Remove() error {
	defer t.lock.Close()
	return tree.Remove(t.Path)
}

// takeLitter locks the entry name of tmp/ if nothing uses it; nil if something
// does, or if it is not one of ours.
func (s *Store) takeLitter(name string) *Temp {
	words := strings.Split(strings.TrimPrefix(name, tempPrefix), "_")
	if !strings.HasPrefix(name, tempPrefix) || len(words) != 3 {
		return nil
	}
	pid, err := strconv.Atoi(words[1])
	if err != nil {
		return nil
	}
	path := s.path("tmp", name)
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() || madeBy(pid, path) {
		return nil
	}
	lock, err := lockIfFree(path)
	if errors.Is(err, os.ErrPermission) && os.Chmod(path, 0700) == nil {
		lock, err = lockIfFree(path)
	}
	if err != nil {
		return nil
	}
	return &Temp{path, lock}
}

// madeBy reports whether the process pid lives and is older than the directory
// path: process numbers come round again.
func madeBy(pid int, path string) bool {
	if pid <= 0 || unix.Kill(pid, 0) == unix.ESRCH {
		return false
	}
	started, err := startTime(pid)
	if err == unix.ESRCH {
		return false
	}
	if err != nil {
		return true // it is hidden from us
	}
	var st unix.Statx_t
	err = unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BTIME, &st)
	if err != nil || st.Mask&unix.STATX_BTIME == 0 {
		return true // not every file system knows when a file was made
	}
	const slack = 2 * time.Second // both clocks are coarse
	return started.Before(time.Unix(st.Btime.Sec, int64(st.Btime.Nsec)).Add(slack))
}

// startTime returns when the process pid began. One that is dead, and only not
// waited for yet, is ESRCH.
func startTime(pid int) (time.Time, error) {
	ticks, dead, err := procs.Started(pid)
	if err == nil && dead {
		err = unix.ESRCH
	}
	if err != nil {
		return time.Time{}, err
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{}, err
	}
	age := time.Duration(up.Nano()) - time.Duration(ticks)*10*time.Millisecond
	return time.Now().Add(-age), nil
}
