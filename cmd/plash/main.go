// Command plash builds and runs layered root file systems. This package is its
// command line: it reads the words, calls the other packages and prints; it
// knows nothing of how they do their work.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"plash/launcher"
)

func main() {
	launcher.Init()
	words := os.Args[1:]
	// A link named plash-NAME is the command NAME.
	name := filepath.Base(os.Args[0])
	if command, ok := strings.CutPrefix(name, "plash-"); ok {
		words = append([]string{command}, words...)
	} else if name == "fuse-overlayfs" {
		words = append([]string{"union"}, words...)
	}
	p := &plash{verbose: func(string, ...any) {}}
	if len(words) > 0 && words[0] == "-v" {
		p.chatty, p.verbose = true, func(format string, args ...any) {
			fmt.Fprintf(os.Stderr, "plash: "+format+"\n", args...)
		}
		words = words[1:]
	}
	if err := p.dispatch(words); err != nil {
		fail(advise(err))
	}
}

// plash is what all commands share.
type plash struct {
	chatty  bool                             // -v was given
	verbose func(format string, args ...any) // says what was chosen and why
}

// dispatch runs the command that words stand for.
func (p *plash) dispatch(words []string) error {
	if len(words) == 0 {
		return errNothing
	}
	switch first := words[0]; {
	case first == "-o":
		// containers/storage calls its mount_program like that, and does not
		// say for what.
		words = append([]string{"union"}, words...)
	case first == builderWord:
		return p.buildForAnother()
	case first == "run" && len(words) > 1 && !slices.ContainsFunc(words[1:min(3, len(words))], mayBeOption):
		// Starting a container is what plash is measured by, and without
		// options its words need no grammar.
		return p.run(words[1], words[2:], &placeOptions{})
	case first == "--help" || first == "-h" || first == "--version" || first == "--help-macros":
		words = append([]string{strings.TrimLeft(first, "-")}, words[1:]...)
		if first == "-h" {
			words[0] = "help"
		}
	case strings.HasPrefix(first, "-") && first != "-" && first != "--":
		return p.execute(&buildAndRun, "", words)
	case calledByMount(words):
		return p.mountHelper(words)
	case strings.Contains(first, "/"):
		return p.exec(first, words[1:])
	}
	return p.parse(words)
}

func mayBeOption(word string) bool { return strings.HasPrefix(word, "-") }

// errNothing is what plash alone says.
var errNothing = errors.New("plash: build and run containers, try plash help")

// errSaid is an error that has been printed already.
var errSaid = errors.New("failed")

// usageError is a missing or surplus argument; its text is the command's usage.
type usageError string

func (e usageError) Error() string { return "usage: plash " + string(e) }

// fail says err in one line and ends plash.
func fail(err error) {
	if errors.Is(err, errSaid) {
		os.Exit(1)
	}
	text := strings.ReplaceAll(err.Error(), "\n", " ")
	if _, usage := errors.AsType[usageError](err); !usage && err != errNothing {
		text = "plash error: " + text
	}
	fmt.Fprintln(os.Stderr, text)
	os.Exit(1)
}
