package main

import (
	"slices"
	"strings"
	"testing"
)

// TestArrange: options stand before or after an id, but never behind the first
// word of a program, and only a command's own options are options.
func TestArrange(t *testing.T) {
	parser := newParser()
	for _, c := range []struct{ words, want string }{
		{"nodepath 5 --allow-0", "--allow-0 -- 5"},
		{"nodepath --allow-root-container 5", "--allow-root-container -- 5"},
		{"nodepath -- -1", "-- -- -1"},
		{"run --help -x", "-- --help -x"},
		{"run 5 cmd --allow-0 --", "-- 5 cmd --allow-0 --"},
		{"data --yes -- --", "-- --yes -- --"},
		{"purge --yes", "--yes --"},
		{"clean --clean-tmp x --clean-index", "--clean-tmp --clean-index -- x"},
		{"build 5 x --", "-- 5 x --"},
	} {
		words := strings.Fields(c.words)
		if got := arrange(command(parser, words[0]), words[1:]); !slices.Equal(got, strings.Fields(c.want)) {
			t.Errorf("%s: got %q, want %q", c.words, got, c.want)
		}
	}
}

// TestGrammar: each command is in a group that help shows, has its help, and
// no name is given twice.
func TestGrammar(t *testing.T) {
	seen := map[string]bool{}
	for _, node := range newParser().Model.Children {
		if node.Group == nil || !slices.Contains(groups, node.Group.Key) {
			t.Errorf("%s: in no group that help shows", node.Name)
		}
		if node.Help == "" {
			t.Errorf("%s: no help", node.Name)
		}
		for _, name := range append(node.Aliases, node.Name) {
			if seen[name] {
				t.Errorf("%s: twice", name)
			}
			seen[name] = true
		}
	}
}
