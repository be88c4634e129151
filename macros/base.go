package macros

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"plash/importers"
	"plash/store"
)

// A Base says where the image comes from that all else is stacked on.
type Base struct {
	Macro string // which gave it, for errors
	From  string // one of the constants below
	Args  []string
}

// Where a base image comes from.
const (
	fromID     = "id"
	fromMap    = "map"
	fromHost   = "host"
	fromLXC    = "lxc"
	fromURL    = "url"
	fromGitHub = "github"
)

// baseOf returns the expansion of the macro that gives a base image by its
// arguments as they are.
func baseOf(macro, from string) func(*eval, []string) error {
	return func(e *eval, args []string) error {
		return e.base(&Base{macro, from, args})
	}
}

// from guesses where the image is to come from.
func from(e *eval, args []string) error {
	kind := fromLXC
	switch image := args[0]; {
	case image != "" && strings.Trim(image, "0123456789") == "":
		kind = fromID
	case image == "host":
		kind = fromHost
	case isReference(image):
		return fmt.Errorf("%s: images of registries and of other programs are not supported yet: --from takes an id, host or DISTRO:VERSION, --from-url an archive", image)
	}
	return e.base(&Base{"--from", kind, args})
}

// transports are the ways to name images that other programs know
// (containers-transports(5)).
var transports = []string{"containers-storage", "dir", "docker", "docker-archive", "docker-daemon", "oci", "oci-archive", "oci-layout", "ostree", "sif"}

// isReference tells whether image is in a registry, HOST/NAME, or behind a
// transport, TRANSPORT:NAME.
func isReference(image string) bool {
	transport, _, colon := strings.Cut(image, ":")
	return strings.Contains(image, "/") || colon && slices.Contains(transports, transport)
}

// base returns the id of a base image. One that is to be imported is, once,
// if the builder makes images at all.
func (b *Builder) base(base *Base) (id store.ID, err error) {
	if base == nil {
		return 0, errors.New("no base image: the first macro must give it, such as --from host")
	}
	switch base.From {
	case fromID:
		if id, err = store.ParseID(base.Args[0]); err == nil {
			err = b.Store.Check(id)
		}
	case fromMap:
		if id, err = b.Store.Map(base.Args[0]); err == nil && id == 0 {
			err = fmt.Errorf("%s: no such key in the map", base.Args[0])
		}
	default:
		key := fmt.Sprintf("from:%s:%x", base.From, sha256.Sum256([]byte(strings.Join(base.Args, "\x00"))))
		id, err = b.cached(key, func() (store.ID, error) { return b.getBase(base) })
	}
	if err != ErrUncached {
		err = wrap(base.Macro, err)
	}
	return id, err
}

// getBase makes a base image.
func (b *Builder) getBase(base *Base) (store.ID, error) {
	switch base.From {
	case fromHost:
		return importers.Host(b.Store)
	case fromLXC:
		return importers.NewLXC(b.Progress).Pull(b.Store, base.Args[0])
	case fromURL:
		return importers.URL(b.Store, base.Args[0], b.Progress)
	}
	// The program of a plashfile, which may have one for base in its turn.
	if b.depth++; b.depth > maxDepth {
		return 0, errTooDeep
	}
	defer func() { b.depth-- }()
	name, text, err := readGitHub(base.Args)
	if err != nil {
		return 0, err
	}
	p, err := EvalText(name, text, strings.NewReader(""))
	if err != nil {
		return 0, err
	}
	return b.Build(p)
}
