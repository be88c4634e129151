package macros

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"

	"plash/store"
)

// ErrUncached is what a Builder without a step function returns if something
// must be made first.
var ErrUncached = errors.New("the image must be built first")

// Step runs command, which runs code, on top of the image parent, with standard
// input at its end, and returns the image of what that changed.
type Step func(parent store.ID, code string, command []string) (store.ID, error)

// A Builder makes the images of programs, or finds them.
type Builder struct {
	Store *store.Store
	// Step runs a layer's code. If it is nil nothing is made or imported, and
	// ErrUncached is returned where that were needed.
	Step     Step
	Progress io.Writer // where an import shows its progress

	depth int // of programs that are the base of another
}

// Build makes the program's images and returns the topmost one's id. A layer
// that was built before (same parent, same code) is taken from the store;
// after a failing step the layers before it remain there.
func (b *Builder) Build(p *Program) (store.ID, error) {
	id, err := b.base(p.Base)
	if err != nil {
		return 0, err
	}
	for _, code := range p.Layers {
		if !hasCode(code) {
			continue
		}
		parent := id
		id, err = b.cached(buildKey(parent, code), func() (store.ID, error) {
			return b.Step(parent, code, shell(code))
		})
		if err != nil {
			return 0, err
		}
	}
	return b.configure(id, &p.Config)
}

// hasCode tells whether there is more in code than blank lines and comments.
func hasCode(code string) bool {
	for line := range strings.Lines(code) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return true
		}
	}
	return false
}

// cached returns the image that key names; if there is none, the one that make
// makes, which key then names.
func (b *Builder) cached(key string, make func() (store.ID, error)) (store.ID, error) {
	id, err := b.Store.Map(key)
	if err != nil || id != 0 {
		return id, err
	}
	if b.Step == nil {
		return 0, ErrUncached
	}
	if id, err = make(); err != nil {
		return 0, err
	}
	return id, b.Store.SetMap(key, id)
}

// buildKey is the name under which the map remembers the layer that code made
// on top of parent.
func buildKey(parent store.ID, code string) string {
	return fmt.Sprintf("build:%x", sha256.Sum256(fmt.Appendf(nil, "%d\n%s", parent, code)))
}

// maxWord is below the length from which on the kernel refuses a single
// argument (MAX_ARG_STRLEN, 128 KiB with its final zero).
const maxWord = 120 << 10

// shell returns the command that runs a layer's code. Code too long for one
// argument is put together again by the shell.
func shell(code string) []string {
	// set stands behind PS4 so that neither shows up in the trace.
	code = "PS4='--> '\nset -ex\n" + code
	if len(code) <= maxWord {
		return []string{"sh", "-c", code}
	}
	var parts []string
	var joined strings.Builder
	for len(code) > 0 {
		n := min(len(code), maxWord)
		parts, code = append(parts, code[:n]), code[n:]
		fmt.Fprintf(&joined, "${%d}", len(parts))
	}
	return append([]string{"sh", "-c", `eval "set --; ` + joined.String() + `"`, "sh"}, parts...)
}
