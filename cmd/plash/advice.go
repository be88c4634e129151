package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"plash/store"
)

// noSuchCommand is the error about a command that there is not, with the one
// that may have been meant.
func noSuchCommand(parser *kong.Kong, name string) error {
	if near := nearest(parser, name); near != "" {
		return fmt.Errorf("no such command: %s, did you mean %s?", name, near)
	}
	return fmt.Errorf("no such command: %s", name)
}

// nearest returns the command whose name is most like word, "" if none is much
// like it: one mistake in three letters, or the name's beginning.
func nearest(parser *kong.Kong, word string) string {
	best, least := "", max(1, len(word)/3)+1
	for _, node := range parser.Model.Children {
		for _, name := range append([]string{node.Name}, node.Aliases...) {
			d := distance(word, name)
			if len(word) > 2 && strings.HasPrefix(name, word) {
				d = 1
			}
			if d < least && d < len(word) {
				best, least = name, d
			}
		}
	}
	return best
}

// distance is how many letters must be inserted, removed, replaced or swapped
// with the next one to make b of a.
func distance(a, b string) int {
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		for j := range d[i] {
			if i == 0 || j == 0 {
				d[i][j] = i + j
				continue
			}
			other := 1
			if a[i-1] == b[j-1] {
				other = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+other)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
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
