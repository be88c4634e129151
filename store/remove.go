package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
)

// Remove removes the image id and its children. All of them are gone at once
// before anything is deleted; an error after that leaves files in tmp/ only.
// If a running container uses one of them it removes none: ErrInUse.
func (s *Store) Remove(id ID) error { return s.remove(id, true) }

// remove removes the image id, with its children or only if it has none, else
// errChildren.
func (s *Store) remove(id ID, children bool) error {
	if err := s.Check(id); err != nil {
		return err
	}
	tmp, err := s.TempDir()
	if err != nil {
		return err
	}
	defer tmp.lock.Close()
	err = patiently(func() error { return s.takeOut(id, children, tmp.Path) })
	if err != nil {
		tmp.Remove()
		return err
	}
	return tmp.Remove()
}

// takeOut moves id's node, and so its children's if it may have any, to the
// directory to.
func (s *Store) takeOut(id ID, children bool, to string) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	node, err := s.NodePath(id)
	if err != nil {
		return err
	}
	if !children {
		if has, err := hasChildren(node); err != nil {
			return errs.Path(node, err)
		} else if has {
			return fmt.Errorf("%s: %w", id, errChildren)
		}
	}
	ids, release, err := s.claim(node)
	if err != nil {
		return err
	}
	defer release()
	if err := os.Rename(node, filepath.Join(to, "node")); err != nil {
		return errs.Path(node, err)
	}
	for _, id := range ids {
		os.Remove(s.index(id)) // they lead nowhere now; Clean finds what stays
	}
	return nil
}

// claim locks the layers of the image at node and of its children, so that no
// container can begin to use them until release is called, and returns their
// ids; ErrInUse if one is in use. The store is locked.
func (s *Store) claim(node string) (ids []ID, release func(), err error) {
	var locks []*os.File
	release = func() {
		for _, f := range locks {
			f.Close()
		}
	}
	err = eachNode(node, func(id ID, node string) error {
		f, err := lockIfFree(root(node))
		switch {
		case err == nil:
			locks = append(locks, f)
		case errors.Is(err, unix.EWOULDBLOCK):
			return fmt.Errorf("%s: %w", id, ErrInUse)
		case errors.Is(err, os.ErrNotExist): // not an image
		default:
			return errs.Path(root(node), err)
		}
		ids = append(ids, id)
		return nil
	})
	if err != nil {
		release()
		return nil, nil, err
	}
	return ids, release, nil
}

// eachNode calls f for the node of an image and for all below it.
func eachNode(node string, f func(id ID, node string) error) error {
	id, err := ParseID(filepath.Base(node))
	if err != nil {
		return err
	}
	if err := f(id, node); err != nil {
		return err
	}
	children, err := os.ReadDir(node)
	if err != nil {
		return errs.Path(node, err)
	}
	for _, child := range children {
		if _, err := ParseID(child.Name()); err != nil || !child.IsDir() {
			continue
		}
		if err := eachNode(filepath.Join(node, child.Name()), f); err != nil {
			return err
		}
	}
	return nil
}

// Purge removes all images, keys and temporary directories and leaves the data
// directory empty, but for files that are not the store's. If a running
// container uses an image or a temporary directory it removes nothing.
func (s *Store) Purge() error {
	if err := os.MkdirAll(s.path("tmp"), 0755); err != nil {
		return errs.Path(s.path("tmp"), err)
	}
	// All goes into one temporary directory, quickly, and then is deleted.
	tmp, err := s.TempDir()
	if err != nil {
		return err
	}
	err = patiently(func() error { return s.bury(tmp.Path) })
	err = first(err, tmp.Remove())
	if err == nil {
		err = errs.Path(s.path("tmp"), os.Remove(s.path("tmp")))
	}
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, os.ErrNotExist) {
		return nil // somebody has come since, or purged too
	}
	return err
}

// bury moves all that is the store's to the directory to in tmp/.
func (s *Store) bury(to string) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if base := s.path("layer", "0"); exists(base) {
		_, release, err := s.claim(base)
		if err != nil {
			return err
		}
		defer release()
	}
	temps, err := os.ReadDir(s.path("tmp"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return errs.Path(s.path("tmp"), err)
	}
	// The links first: an image without its link is no image.
	names := []string{"index", "map", "layer", "mnt", "id_counter"}
	for _, e := range temps {
		path := s.path("tmp", e.Name())
		if path == to {
			continue
		}
		if inUse(path) {
			return fmt.Errorf("%s: %w", path, errBusy)
		}
		names = append(names, filepath.Join("tmp", e.Name()))
	}
	for _, name := range names {
		err := os.Rename(s.path(name), filepath.Join(to, filepath.Base(name)))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return errs.Path(s.path(name), err)
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
