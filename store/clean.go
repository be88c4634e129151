package store

import (
	"errors"
	"os"
	"path/filepath"

	"plash/internal/errs"
)

// What Clean removes; the parts can be added.
type What uint

const (
	CleanIndex What = 1 << iota // index links that lead to no image
	CleanKeys                   // the same in map/, and those of sessions that are over
	CleanTmp                    // temporary directories that nothing uses

	CleanAll = CleanIndex | CleanKeys | CleanTmp
)

// Clean removes what nothing uses and returns what that was, as paths in the
// data directory; files that it does not know it leaves alone. It goes on
// after an error and returns the first one. An image that lost its index link
// gets it back.
func (s *Store) Clean(what What) (removed []string, err error) {
	removed, err = s.cleanLocked(what)
	if what&CleanTmp != 0 {
		names, err2 := s.cleanTmp()
		removed, err = append(removed, names...), first(err, err2)
	}
	return removed, err
}

// cleanLocked cleans index/ and map/. A link that leads nowhere may be that of
// somebody who is about to put an image there, and who holds the lock.
func (s *Store) cleanLocked(what What) (removed []string, err error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if what&CleanIndex != 0 {
		removed, err = s.cleanIndex()
	}
	if what&CleanKeys != 0 {
		names, err2 := s.cleanLinks("map", func(string) bool { return true })
		removed, err = append(removed, names...), first(err, err2)
		names, err2 = s.cleanSessions()
		removed, err = append(removed, names...), first(err, err2)
	}
	return removed, err
}

func first(err, err2 error) error {
	if err != nil {
		return err
	}
	return err2
}

func (s *Store) cleanIndex() (removed []string, err error) {
	if base := s.path("layer", "0"); exists(base) {
		err = eachNode(base, func(id ID, node string) error {
			if exists(s.index(id)) || !exists(root(node)) {
				return nil
			}
			target, err := filepath.Rel(s.path("index"), node)
			if err != nil {
				return err
			}
			return errs.Path(s.index(id), os.Symlink(target, s.index(id)))
		})
	}
	removed, err2 := s.cleanLinks("index", func(name string) bool {
		_, err := ParseID(name)
		return err == nil
	})
	return removed, first(err, err2)
}

// cleanLinks removes the links in dir, among those that ours accepts, that
// lead to no image.
func (s *Store) cleanLinks(dir string, ours func(name string) bool) (removed []string, err error) {
	names, err := s.links(dir)
	for _, name := range names {
		path := s.path(dir, name)
		if _, broken := s.follow(path); !ours(name) || !errors.Is(broken, os.ErrNotExist) {
			continue
		}
		if err2 := os.Remove(path); err2 == nil {
			removed = append(removed, filepath.Join(dir, name))
		} else if !errors.Is(err2, os.ErrNotExist) { // UnsetMap was here
			err = first(err, errs.Path(path, err2))
		}
	}
	return removed, err
}

func (s *Store) cleanTmp() (removed []string, err error) {
	entries, err := os.ReadDir(s.path("tmp"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errs.Path(s.path("tmp"), err)
	}
	err = nil
	for _, e := range entries {
		litter := s.takeLitter(e.Name())
		if litter == nil {
			continue
		}
		if err2 := litter.Remove(); err2 == nil {
			removed = append(removed, filepath.Join("tmp", e.Name()))
		} else {
			err = first(err, err2)
		}
	}
	return removed, err
}
