package store

import (
	"errors"
	"os"
)

// errChildren is what an image cannot be removed for alone.
var errChildren = errors.New("has children")

// Shrink removes half of the images, rounded up: one by one the one with the
// lowest id of those that have no children then. It calls told after each one,
// with nil or with why it was left: because a container uses it, or somebody
// has just stacked something on it. What somebody else has removed meanwhile
// is not told, and does not count.
func (s *Store) Shrink(told func(id ID, err error)) error {
	ids, err := s.Images()
	if err != nil {
		return err
	}
	parents, children := map[ID]ID{}, map[ID]int{}
	for _, id := range ids {
		parent, err := s.Parent(id)
		if errors.Is(err, ErrNoImage) {
			continue
		}
		if err != nil {
			return err
		}
		parents[id] = parent
		children[parent]++
	}
	for left := (len(ids) + 1) / 2; left > 0; {
		id := lowestLeaf(ids, parents, children)
		if id == 0 {
			return nil
		}
		err := s.remove(id, false)
		if err != nil && !errors.Is(err, ErrInUse) && !errors.Is(err, errChildren) && !errors.Is(err, ErrNoImage) {
			return err
		}
		// It is not looked at again. Its parent is only if it is gone.
		if err == nil || errors.Is(err, ErrNoImage) {
			children[parents[id]]--
		}
		delete(parents, id)
		if !errors.Is(err, ErrNoImage) {
			told(id, err)
		}
		if err == nil {
			left--
		}
	}
	return nil
}

// lowestLeaf returns the first of ids that is in parents and without children,
// 0 if there is none.
func lowestLeaf(ids []ID, parents map[ID]ID, children map[ID]int) ID {
	for _, id := range ids {
		if _, ok := parents[id]; ok && children[id] == 0 {
			return id
		}
	}
	return 0
}

// hasChildren reports whether an image is stacked on the one at node.
func hasChildren(node string) (bool, error) {
	names, err := os.ReadDir(node)
	for _, name := range names {
		if _, err := ParseID(name.Name()); err == nil && name.IsDir() {
			return true, nil
		}
	}
	return false, err
}
