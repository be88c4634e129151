package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/internal/procs"
)

// sessionPrefix begins the keys of sessions.
const sessionPrefix = "session:"

// sessionKey is the key by which the session sid remembers its last image.
// Process numbers come round again, so the leader's start time belongs to it,
// and the machine's start, from which that is counted.
func sessionKey(sid int) string {
	started, _, _ := procs.Started(sid) // 0 if the leader is gone
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return fmt.Sprintf("%s%d_%d_%s", sessionPrefix, sid, started, strings.TrimSpace(string(boot)))
}

// Last returns the image that SetLast gave to the session of this process, 0
// if there is none.
func (s *Store) Last() (ID, error) {
	sid, err := unix.Getsid(0)
	if err != nil {
		return 0, errs.Path("session", err)
	}
	return s.Map(sessionKey(sid))
}

// SetLast makes id the last image of this process's session.
func (s *Store) SetLast(id ID) error {
	sid, err := unix.Getsid(0)
	if err != nil {
		return errs.Path("session", err)
	}
	return s.SetMap(sessionKey(sid), id)
}

// sessionOver reports whether key is that of a session whose leader has ended,
// so that nobody will ask for it any more.
func sessionOver(key string) bool {
	words, ok := strings.CutPrefix(key, sessionPrefix)
	var sid int
	if _, err := fmt.Sscanf(words, "%d_", &sid); !ok || err != nil {
		return false
	}
	return sessionKey(sid) != key
}

// cleanSessions removes the keys of sessions that are over.
func (s *Store) cleanSessions() (removed []string, err error) {
	names, err := s.links("map")
	for _, name := range names {
		if !sessionOver(name) {
			continue
		}
		if err2 := s.UnsetMap(name); err2 != nil {
			err = first(err, err2)
		} else {
			removed = append(removed, filepath.Join("map", name))
		}
	}
	return removed, err
}
