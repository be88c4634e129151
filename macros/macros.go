// Package macros is plash's build language: it turns words such as
// "--from host --apt git --layer --run 'make install'" into shell code cut
// into layers, and builds images from that, each layer once.
//
// The way of the words: Eval looks up each macro in one table and collects
// what it emits in a Program; Program.Script prints it, Program.Build makes
// the images. How a layer's code is run is the caller's business.
package macros

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"plash/store"
)

// ErrImport is what Eval returns, with Options.LookupOnly, for a base image
// that is not in the store yet.
var ErrImport = errors.New("the base image must be imported first")

// Options says where Eval takes base images from.
type Options struct {
	Store      func() (*store.Store, error) // called when a base image is needed
	LookupOnly bool                         // import nothing: ErrImport instead
	Progress   io.Writer                    // where an import shows its progress
}

// Program is what macros come to.
type Program struct {
	Base   store.ID // the image all else is stacked on, if a macro gave it
	Layers []string // each layer's shell code, in lines; some may be empty

	hasBase bool

	// What is to be kept beside the layers, as macros gave it: they are added
	// to what the image inherits, an entrypoint takes the inherited one's place.
	entrypoint  []string
	env         []string // NAME=VALUE
	envNames    []string // taken from the host when it runs
	envPrefixes []string
}

// hintPrefix begins the lines of a script that are not code.
const hintPrefix = "### plash hint: "

// Script returns the program as shell code with hint lines for the base image
// and the borders of the layers.
func (p *Program) Script() string {
	var b strings.Builder
	if p.hasBase {
		fmt.Fprintf(&b, "%simage=%d\n", hintPrefix, p.Base)
	}
	for i, code := range p.Layers {
		if i > 0 {
			b.WriteString(hintPrefix + "layer\n")
		}
		b.WriteString(code)
	}
	return b.String()
}

// IsMacro tells whether a first word stands for a macro: it begins with a
// dash, and is neither a dash or two alone nor a negative number (which are
// taken as ids, and refused as such).
func IsMacro(word string) bool {
	if len(word) < 2 || word[0] != '-' || word == "--" {
		return false
	}
	return word[1] < '0' || word[1] > '9'
}

// Eval turns words into a program. Each macro is a word that begins with a
// dash; the words up to the next such word are its arguments. An argument
// that begins with a dash itself is written `--\ ARGUMENT`, in one word.
func Eval(words []string, o Options) (*Program, error) {
	e := &eval{options: o, program: &Program{Layers: []string{""}}, installers: builtinInstallers()}
	for len(words) > 0 {
		name, args := words[0], words[1:]
		n := 0
		for n < len(args) && (args[n] == "" || args[n][0] != '-' || isLiteral(args[n])) {
			n++
		}
		if isLiteral(name) || !strings.HasPrefix(name, "-") {
			return nil, fmt.Errorf("%s: a macro must stand here, such as --run", name)
		}
		words, args = args[n:], literals(args[:n])
		if err := e.call(name, args); err != nil {
			return nil, err
		}
	}
	return e.program, nil
}

// isLiteral recognizes the form `--\ TEXT` (or `--\` for an empty text).
func isLiteral(word string) bool {
	return word == `--\` || strings.HasPrefix(word, `--\ `)
}

// literals returns words with the form `--\ TEXT` replaced by TEXT.
func literals(words []string) []string {
	plain := make([]string, len(words))
	for i, word := range words {
		if isLiteral(word) {
			word = strings.TrimPrefix(strings.TrimPrefix(word, `--\`), " ")
		}
		plain[i] = word
	}
	return plain
}

// eval is the state of one Eval.
type eval struct {
	options    Options
	program    *Program
	installers map[string][]string // name → lines, {} stands for the packages
}

// call evaluates the macro called name, dashes and all.
func (e *eval) call(name string, args []string) error {
	bare := strings.TrimPrefix(strings.TrimPrefix(name, "-"), "-")
	if lines, ok := e.installers[bare]; ok && strings.HasPrefix(name, "--") {
		e.install(lines, args)
		return nil
	}
	m, ok := lookup(name)
	if !ok {
		return fmt.Errorf("%s: no such macro", name)
	}
	if len(args) < m.min || m.max >= 0 && len(args) > m.max {
		return fmt.Errorf("%s: wrong number of arguments: %s %s", name, name, m.args)
	}
	if err := m.expand(e, args); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// emit adds lines of code to the current layer.
func (e *eval) emit(lines ...string) {
	last := &e.program.Layers[len(e.program.Layers)-1]
	for _, line := range lines {
		*last += line + "\n"
	}
}

// emitScript adds lines that a user wrote, in which hints count.
func (e *eval) emitScript(lines []string) error {
	for _, line := range lines {
		for part := range strings.SplitSeq(line, "\n") {
			hint, ok := strings.CutPrefix(part, hintPrefix)
			if !ok {
				e.emit(part)
				continue
			}
			name, value, _ := strings.Cut(hint, "=")
			if err := e.hint(name, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// hint does what a hint line says; one of an unknown name stays a comment.
func (e *eval) hint(name, value string) error {
	switch name {
	case "layer":
		e.layer()
	case "image":
		id, err := store.ParseID(value)
		if err != nil {
			return err
		}
		return e.base(id)
	default:
		if value != "" {
			name += "=" + value
		}
		e.emit(hintPrefix + name)
	}
	return nil
}

// layer begins a new layer.
func (e *eval) layer() { e.program.Layers = append(e.program.Layers, "") }

// base sets the base image.
func (e *eval) base(id store.ID) error {
	p := e.program
	if p.hasBase || len(p.Layers) > 1 || p.Layers[0] != "" {
		return errors.New("only the first macro may give the base image")
	}
	s, err := e.options.Store()
	if err != nil {
		return err
	}
	if err := s.Check(id); err != nil {
		return err
	}
	p.Base, p.hasBase = id, true
	return nil
}

// cachedBase sets the base image to the one that key names, or to the one that
// make imports, which key then names.
func (e *eval) cachedBase(key string, make func(*store.Store) (store.ID, error)) error {
	s, err := e.options.Store()
	if err != nil {
		return err
	}
	id, err := s.Map(key)
	if err != nil {
		return err
	}
	if id == 0 {
		if e.options.LookupOnly {
			return ErrImport
		}
		if id, err = make(s); err != nil {
			return err
		}
		if err = s.SetMap(key, id); err != nil {
			return err
		}
	}
	return e.base(id)
}

// quote returns text as one word of shell code.
func quote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

func quoteAll(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = quote(word)
	}
	return strings.Join(quoted, " ")
}

// isNumber tells whether word consists of digits.
func isNumber(word string) bool {
	_, err := strconv.ParseUint(word, 10, 64)
	return err == nil && word[0] != '+'
}
