package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"plash/internal/spell"
	"plash/store"
)

// noSuchCommand is the error about a command that there is not, with the one
// that may have been meant.
func noSuchCommand(name string) error {
	if near := nearest(name); near != "" {
		return fmt.Errorf("no such command: %s, did you mean %s?", name, near)
	}
	return fmt.Errorf("no such command: %s", name)
}

// nearest returns the command whose name is most like word, "" if none is much
// like it.
func nearest(word string) string {
	var names []string
	for _, c := range commands() {
		names = append(append(names, c.name), c.aliases...)
	}
	return spell.Nearest(word, names)
}

// noStore is the error about a data directory that is not there.
type noStore struct{ error }

func (e noStore) Unwrap() error { return e.error }

// advise adds to an error how to get an image, if it comes from having none at
// all.
func advise(err error) error {
	usage, isUsage := errors.AsType[usageError](err)
	_, isNoStore := errors.AsType[noStore](err)
	needsImage := isNoStore || errors.Is(err, store.ErrNoImage) ||
		isUsage && slices.Contains(strings.Fields(string(usage)), "ID")
	if needsImage && noImages() {
		return fmt.Errorf("%w (no images yet: plash build --from host makes one, or plash pull:lxc alpine)", err)
	}
	return err
}

// noImages reports whether there are none. A data directory that was named and
// is not there is rather a mistake.
func noImages() bool {
	s, err := openStore()
	if err != nil {
		return errors.Is(err, os.ErrNotExist) && os.Getenv("PLASH_DATA") == ""
	}
	ids, err := s.Images()
	return err == nil && len(ids) == 0
}
