package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"plash/internal/errs"
)

// keyPath returns the path of key's link.
func (s *Store) keyPath(key string) (string, error) {
	switch {
	case key == "":
		return "", errors.New("key: must not be empty")
	case strings.Contains(key, "/"):
		return "", fmt.Errorf("%s: must not contain a slash", key)
	case key == "." || key == "..":
		return "", fmt.Errorf("%s: cannot be a key", key)
	}
	return s.path("map", key), nil
}

// Map returns the image that key points to, 0 if it points to none.
func (s *Store) Map(key string) (ID, error) {
	link, err := s.keyPath(key)
	if err != nil {
		return 0, err
	}
	node, err := s.follow(link)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return ParseID(filepath.Base(node))
}

// Keys returns the keys that point to images, by image.
func (s *Store) Keys() (map[ID][]string, error) {
	names, err := s.links("map")
	if err != nil {
		return nil, err
	}
	keys := map[ID][]string{}
	for _, name := range names {
		id, err := s.Map(name)
		if err != nil {
			return nil, err
		}
		if id != 0 {
			keys[id] = append(keys[id], name)
		}
	}
	return keys, nil
}

// SetMap lets key point to the image id, at once for all readers.
func (s *Store) SetMap(key string, id ID) error {
	link, err := s.keyPath(key)
	if err != nil {
		return err
	}
	if err := s.Check(id); err != nil {
		return err
	}
	node, err := s.NodePath(id)
	if err != nil {
		return err
	}
	target, err := filepath.Rel(s.path("map"), node)
	if err != nil {
		return err
	}
	tmp, err := s.TempDir()
	if err != nil {
		return err
	}
	defer tmp.Remove()
	fresh := filepath.Join(tmp.Path, "link")
	if err := os.Symlink(target, fresh); err != nil {
		return errs.Path(fresh, err)
	}
	unlock, err := s.lock() // or Clean takes it for the one that it replaces
	if err != nil {
		return err
	}
	defer unlock()
	return errs.Path(link, os.Rename(fresh, link))
}

// UnsetMap forgets key. One that is not set is no error.
func (s *Store) UnsetMap(key string) error {
	link, err := s.keyPath(key)
	if err != nil {
		return err
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return errs.Path(link, err)
	}
	return nil
}
