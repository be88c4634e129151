package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// manyFiles is the number of files that makeMany spreads over its layers.
const manyFiles = 5000

// manyFile is the name of file n: a hundred in each directory.
func manyFile(n int) string { return fmt.Sprintf("dir%d/file%d", n/100, n) }

// makeMany makes so many layers: the same files whatever the number, each
// directory from up to a hundred layers.
func makeMany(layers int) func(dir string) error {
	return func(dir string) error {
		for layer := range layers {
			if err := os.MkdirAll(fmt.Sprintf("%s/%d", dir, layer), 0o755); err != nil {
				return err
			}
		}
		for n := range manyFiles {
			if err := write(fmt.Sprintf("%s/%d/%s", dir, n%layers, manyFile(n)), 100); err != nil {
				return err
			}
		}
		return nil
	}
}

// wide are the directories that makeWide makes: so many empty files in each.
var wide = map[string]int{"one": 1, "hundred-thousand": 100_000, "million": 1_000_000}

// makeWide makes a layer of large directories, below an empty one.
func makeWide(dir string) error {
	if err := os.MkdirAll(dir+"/1", 0o755); err != nil {
		return err
	}
	for name, count := range wide {
		where := filepath.Join(dir, "0", name)
		if err := os.MkdirAll(where, 0o755); err != nil {
			return err
		}
		for n := range count {
			f, err := os.Create(fmt.Sprintf("%s/file%d", where, n))
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
		}
	}
	return nil
}
