package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"plash/internal/errs"
	"plash/launcher"
	"plash/macros"
	"plash/store"
)

var sessionCommands = []command{
	{name: "cache", aliases: []string{"cached"}, args: func() any { return new(cacheCommand) }},
	{name: "do", args: func() any { return new(doCommand) }},
	{name: "recall", args: func() any { return new(recallCommand) }},
	{name: "noid", args: func() any { return new(noidCommand) }},
}

type cacheCommand struct {
	Words []string `arg:"" name:"PLASHCMD"`
}

func (c *cacheCommand) Run(p *plash) error { return p.cache(c.Words) }

type recallCommand struct {
	Words []string `arg:"" name:"PLASHCMD"`
}

func (c *recallCommand) Run(p *plash) error { return p.recall(c.Words, false) }

type doCommand struct {
	Words []string `arg:"" name:"PLASHCMD"`
}

func (c *doCommand) Run(p *plash) error { return p.recall(c.Words, true) }

type noidCommand struct {
	Words []string `arg:"" optional:"" name:"PLASHCMD"`
}

func (c *noidCommand) Run(p *plash) error {
	if len(c.Words) > 0 {
		return p.recall(c.Words, false)
	}
	id, err := last()
	if err != nil {
		return err
	}
	return printID(id)
}

// cache prints the id that the plash command words printed when it was run,
// which is now, unless its image is still there.
func (p *plash) cache(words []string) error {
	key := cacheKey(words)
	s, err := openStore()
	id := store.ID(0)
	if err == nil {
		id, err = s.Map(key)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if id != 0 {
		p.verbose("cached: plash %s", strings.Join(words, " "))
		return remember(s, id, "")
	}
	return p.runFor(words, key)
}

// cacheKey is the name under which the map remembers what words printed. As
// each word's length stands before it, no others come to the same name.
func cacheKey(words []string) string {
	hash := sha256.New()
	for _, word := range words {
		fmt.Fprintf(hash, "%d:%s", len(word), word)
	}
	return fmt.Sprintf("cache:%x", hash.Sum(nil))
}

// recall runs the plash command words with the session's last image in its
// place. What makes an image is remembered, and if cached is set, and it
// builds or imports, found again.
func (p *plash) recall(words []string, cached bool) error {
	words, err := withLast(words)
	if err != nil {
		return err
	}
	switch c := find(words[0]); {
	case c == nil || !c.makesImage():
		return p.dispatch(words)
	case cached && (c.name == "build" || strings.HasPrefix(c.name, "pull:")):
		return p.cache(words)
	}
	return p.runFor(words, "")
}

// withLast puts the session's last id behind the first of words if that is a
// command that needs one there.
func withLast(words []string) ([]string, error) {
	c := find(words[0])
	switch {
	case c != nil && c.name == "cache" && len(words) > 1:
		rest, err := withLast(words[1:])
		return append(words[:1:1], rest...), err
	case c == nil || !c.takesID() || c.macros && c.beginsMacros(words[1:]):
		return words, nil
	}
	id, err := last()
	return slices.Insert(slices.Clone(words), 1, id.String()), err
}

// takesID reports whether the command's first argument is an image.
func (c *command) takesID() bool {
	arguments := c.parser().Model.Positional
	return len(arguments) > 0 && arguments[0].Name == "ID"
}

// makesImage reports whether the command prints the id of an image that it made.
func (c *command) makesImage() bool {
	return strings.HasPrefix(c.name, "pull:") || slices.Contains([]string{"build", "check", "stack"}, c.name)
}

// beginsMacros reports whether words, behind the command's own options, are
// macros.
func (c *command) beginsMacros(words []string) bool {
	_, rest := c.ownOptions(words)
	return len(rest) > 0 && macros.IsMacro(rest[0])
}

// last returns the session's last image.
func last() (store.ID, error) {
	s, err := openStore()
	id := store.ID(0)
	if err == nil {
		id, err = s.Last()
	}
	if id == 0 && (err == nil || errors.Is(err, os.ErrNotExist)) {
		err = errors.New("no image in this session")
	}
	return id, err
}

// runFor runs a plash command for the id that it prints, and remembers that
// for the session, and under key if one is given. If it fails, plash ends in
// the same way.
func (p *plash) runFor(words []string, key string) error {
	var out idWriter
	status, err := p.again(words, &out)
	if err != nil {
		return err
	}
	if status != (launcher.Status{}) {
		out.flush()
		status.Exit()
	}
	if id, ok := out.id(); ok {
		s, err := openStore()
		if err != nil {
			return err
		}
		if s.Check(id) == nil {
			return remember(s, id, key)
		}
	}
	return out.flush()
}

// remember lets key, if it is not empty, and the session point to id, and
// then prints it.
func remember(s *store.Store, id store.ID, key string) error {
	if key != "" {
		if err := s.SetMap(key, id); err != nil {
			return err
		}
	}
	if old, err := s.Last(); err != nil || old != id {
		if err := s.SetLast(id); err != nil {
			return err
		}
	}
	return printID(id)
}

// An idWriter passes on to standard output what is written to it, but keeps
// what may turn out to be an id, alone on a line.
type idWriter struct {
	held    []byte
	passing bool
}

func (w *idWriter) Write(data []byte) (int, error) {
	w.held = append(w.held, data...)
	if _, ok := w.id(); ok && !w.passing {
		return len(data), nil
	}
	w.passing = true
	return len(data), w.flush()
}

// id returns the id that is held; 0 and numbers with leading zeros are none.
func (w *idWriter) id() (id store.ID, ok bool) {
	text := strings.TrimSuffix(string(w.held), "\n")
	n, err := strconv.Atoi(text)
	return store.ID(n), err == nil && n > 0 && strconv.Itoa(n) == text
}

// flush prints what is held.
func (w *idWriter) flush() error {
	_, err := os.Stdout.Write(w.held)
	w.held = w.held[:0]
	return errs.Path("standard output", err)
}
