package macros

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"plash/store"
)

// ErrUncached is what Build returns without a step function if something must
// be built first.
var ErrUncached = errors.New("the image must be built first")

// Step runs command, which runs code, on top of the image parent, with standard
// input at its end, and returns the image of what that changed.
type Step func(parent store.ID, code string, command []string) (store.ID, error)

// Build makes the program's images and returns the topmost one's id. A layer
// that was built before (same parent, same code) is taken from the store;
// after a failing step the layers before it remain there. Without a step
// function nothing is made, and ErrUncached is returned if that were needed.
func (p *Program) Build(s *store.Store, step Step) (store.ID, error) {
	if !p.hasBase {
		return 0, errors.New("no base image: the first macro must give it, such as --from host")
	}
	id := p.Base
	for _, code := range p.Layers {
		if !hasCode(code) {
			continue
		}
		parent, err := id, error(nil)
		id, err = cached(s, buildKey(parent, code), step != nil, func() (store.ID, error) {
			return step(parent, code, shell(code))
		})
		if err != nil {
			return 0, err
		}
	}
	return p.configure(s, id, step != nil)
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

// cached returns the image that key names; if there is none, and may is set,
// the one that make makes, which key then names.
func cached(s *store.Store, key string, may bool, make func() (store.ID, error)) (store.ID, error) {
	id, err := s.Map(key)
	if err != nil || id != 0 {
		return id, err
	}
	if !may {
		return 0, ErrUncached
	}
	if id, err = make(); err != nil {
		return 0, err
	}
	return id, s.SetMap(key, id)
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
