package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"plash/internal/errs"
	"plash/launcher"
	"plash/macros"
	"plash/store"
	"plash/union"
)

var imageCommands = []command{
	{name: "check", args: func() any { return new(checkCommand) }},
	{name: "id", args: func() any { return new(idCommand) }},
	{name: "map", args: func() any { return new(mapCommand) }},
	{name: "mount", args: func() any { return new(mountCommand) }},
	{name: "nodepath", args: func() any { return new(nodepathCommand) }},
	{name: "parent", args: func() any { return new(parentCommand) }},
	{name: "rm", args: func() any { return new(rmCommand) }},
	{name: "shrink", args: func() any { return new(shrinkCommand) }},
	{name: "stack", aliases: []string{"add-layer"}, args: func() any { return new(stackCommand) }},
	{name: "umount", args: func() any { return new(umountCommand) }},
}

type checkCommand struct {
	ID   string `arg:"" name:"ID"`
	Path string `arg:"" name:"PATH"`
}

func (c *checkCommand) Run() error {
	s, parent, err := openID(c.ID, false)
	if err != nil {
		return err
	}
	hash, unread := macros.HashPath(c.Path)
	if unread == nil {
		id, err := s.Map(checkKey(parent, hash))
		if err != nil {
			return err
		}
		if id != 0 {
			return printID(id)
		}
	}
	// As userspace root one may also read what belongs to subordinate ids.
	if err := becomeRoot(); err != nil {
		return err
	}
	if unread != nil {
		return unread
	}
	meta, err := s.Meta(parent)
	if err != nil {
		return err
	}
	meta.Made = "check " + c.Path
	id, err := s.StackEmpty(parent, meta)
	if err != nil {
		return err
	}
	if err := s.SetMap(checkKey(parent, hash), id); err != nil {
		return err
	}
	return printID(id)
}

// checkKey is the name under which the map remembers the image that check made.
func checkKey(parent store.ID, hash string) string { return fmt.Sprintf("check:%d:%s", parent, hash) }

type idCommand struct {
	ID string `arg:"" name:"ID"`
}

func (c *idCommand) Run() error {
	_, id, err := openID(c.ID, true)
	if err != nil {
		return err
	}
	return printID(id)
}

type mapCommand struct {
	Key string  `arg:"" name:"KEY"`
	ID  *string `arg:"" optional:"" name:"ID"`
}

func (c *mapCommand) Run() error {
	if c.ID != nil && *c.ID != "" {
		s, id, err := openID(*c.ID, false)
		if err != nil {
			return err
		}
		return s.SetMap(c.Key, id)
	}
	s, err := openStore()
	if err != nil {
		return err
	}
	if c.ID != nil {
		return s.UnsetMap(c.Key)
	}
	id, err := s.Map(c.Key)
	if err != nil || id == 0 {
		return err
	}
	return printID(id)
}

type mountCommand struct {
	ID      string `arg:"" name:"ID"`
	Dir     string `arg:"" name:"DIR"`
	Changes string `arg:"" optional:"" name:"CHANGESDIR"`
}

func (c *mountCommand) Run(p *plash) error {
	_, image, err := openImage(c.ID)
	if err != nil {
		return err
	}
	if err := p.makeChanges(c.Changes); err != nil {
		return err
	}
	config := launcher.Config{Layers: image.layers, Changes: c.Changes, Verbose: p.verbose}
	return image.failed(launcher.MountHost(config, c.Dir, func() {}))
}

type umountCommand struct {
	Dir string `arg:"" name:"DIR"`
}

func (c *umountCommand) Run() error { return launcher.Unmount(c.Dir) }

type nodepathCommand struct {
	ID        string `arg:"" name:"ID"`
	AllowRoot bool   `name:"allow-root-container" aliases:"allow-0"`
}

func (c *nodepathCommand) Run() error {
	s, id, err := openID(c.ID, c.AllowRoot)
	if err != nil {
		return err
	}
	path, err := s.NodePath(id)
	if err != nil {
		return err
	}
	return printLine(path)
}

type parentCommand struct {
	ID string `arg:"" name:"ID"`
}

func (c *parentCommand) Run() error {
	s, id, err := openID(c.ID, false)
	if err != nil {
		return err
	}
	if id, err = s.Parent(id); err != nil {
		return err
	}
	return printID(id)
}

type rmCommand struct {
	ID string `arg:"" name:"ID"`
}

func (c *rmCommand) Run() error {
	if err := becomeRoot(); err != nil {
		return err
	}
	s, id, err := openID(c.ID, false)
	if err != nil {
		return err
	}
	return s.Remove(id)
}

type shrinkCommand struct{}

func (c *shrinkCommand) Run() error {
	if err := becomeRoot(); err != nil {
		return err
	}
	s, err := openStore()
	if err != nil {
		return err
	}
	return s.Shrink(func(id store.ID, err error) {
		if err != nil {
			fmt.Fprintf(os.Stderr, "left %v\n", err)
		} else {
			fmt.Fprintf(os.Stderr, "removed %d\n", id)
		}
	})
}

type stackCommand struct {
	ID  string `arg:"" name:"ID"`
	Dir string `arg:"" name:"DIR"`
}

func (c *stackCommand) Run() error {
	if err := becomeRoot(); err != nil {
		return err
	}
	s, err := initStore()
	if err != nil {
		return err
	}
	parent, err := parseID(c.ID)
	if err != nil {
		return err
	}
	id, err := s.Stack(parent, c.Dir)
	if err != nil {
		return err
	}
	return printID(id)
}

// image is an image that is to be run, mounted or exported.
type image struct {
	store  *store.Store
	id     store.ID
	layers []union.Layer
	meta   store.Meta
}

// openStore opens the data directory, which must exist.
func openStore() (*store.Store, error) {
	dir, err := store.DefaultDir()
	if err != nil {
		return nil, err
	}
	s, err := store.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		err = noStore{err}
	}
	return s, err
}

// initStore opens the data directory, and makes it if it is missing.
func initStore() (*store.Store, error) {
	dir, err := store.DefaultDir()
	if err != nil {
		return nil, err
	}
	return store.Init(dir)
}

// openID opens the data directory and reads word as the id of an image there;
// root says whether 0 is one.
func openID(word string, root bool) (*store.Store, store.ID, error) {
	s, err := openStore()
	if err != nil {
		return nil, 0, err
	}
	id, err := parseID(word)
	if err != nil {
		return nil, 0, err
	}
	if id == 0 && root {
		return s, 0, nil
	}
	return s, id, s.Check(id)
}

// parseID reads word, which stands in an id's place. A mistyped option does too.
func parseID(word string) (store.ID, error) {
	id, err := store.ParseID(word)
	if err != nil && mayBeOption(word) && strings.Trim(word, "-0123456789") != "" {
		return 0, fmt.Errorf("%s: no such option, and an id must be a positive number", strings.ToValidUTF8(word, "\uFFFD"))
	}
	return id, err
}

// openImage opens the data directory and gets what is needed to use the image
// whose id is word.
func openImage(word string) (*store.Store, image, error) {
	s, id, err := openID(word, false)
	if err != nil {
		return nil, image{}, err
	}
	img, err := loadImage(s, id)
	return s, img, err
}

// loadImage gets what is needed to use an image.
func loadImage(s *store.Store, id store.ID) (image, error) {
	layers, err := s.Layers(id)
	if err != nil {
		return image{}, err
	}
	meta, err := s.Meta(id)
	return image{s, id, layers, meta}, err
}

// failed returns err, or that the image was removed in the moment before its
// layers were locked, if that is why.
func (img image) failed(err error) error {
	if err != nil && img.store != nil {
		if gone := img.store.Check(img.id); errors.Is(gone, store.ErrNoImage) {
			return gone
		}
	}
	return err
}

// makeChanges makes the changes directory if there is to be one and it is
// missing.
func (p *plash) makeChanges(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.Mkdir(dir, 0o755); err != nil && err.(*os.PathError).Err != unix.EEXIST {
		return errs.Path(dir, err)
	}
	return nil
}

// printID prints an id, the only thing that commands which make images print
// on standard output.
func printID(id store.ID) error { return printLine(id) }

// printLine prints value, alone on a line, on standard output.
func printLine(value any) error {
	_, err := fmt.Println(value)
	return errs.Path("standard output", err)
}
