// Package macros is plash's build language: it turns words such as
// "--from host --apt git --layer --run 'make install'", or the lines of a
// plashfile, into shell code cut into layers, and builds images from that, each
// layer once.
//
// The way of the words: Eval looks up each macro in one table and collects what
// it emits in a Program, which it does not touch the store for. A Builder makes
// a program's images, or finds them. How a layer's code is run is the caller's
// business.
package macros

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"plash/internal/spell"
	"plash/store"
)

// Program is what macros come to. Written with rawjson it can go to another
// process to be built.
type Program struct {
	Base   *Base    // what all else is stacked on; nil if no macro gave it
	Layers []string // each layer's shell code, in lines; some may be empty
	Config Config
}

// Config is what is to be kept beside the layers, as macros gave it. It is
// added to what the image inherits; an entrypoint takes the inherited one's
// place.
type Config struct {
	Entrypoint  []string
	Env         []string // NAME=VALUE, or NAME: taken from the host when it runs
	EnvPrefixes []string // likewise, all that begin so
	Mounts      []string // SRC or SRC:DST, absolute
}

// hintPrefix begins the lines of a script that are not code.
const hintPrefix = "### plash hint: "

// Script returns the program as shell code with hint lines for the borders of
// the layers and, if there is one, for the base image, whose id is given.
func (p *Program) Script(base store.ID) string {
	var b strings.Builder
	if p.Base != nil {
		fmt.Fprintf(&b, "%simage=%d\n", hintPrefix, base)
	}
	for i, code := range p.Layers {
		if i > 0 {
			b.WriteString(hintPrefix + "layer\n")
		}
		b.WriteString(code)
	}
	return b.String()
}

// Eval turns the words of a command line into a program. Each macro is a word
// that begins with a dash; the words up to the next such word are its
// arguments. An argument that begins with a dash itself is written
// `--\ ARGUMENT`, in one word. Macros that read standard input read stdin.
func Eval(words []string, stdin io.Reader) (*Program, error) {
	e := newEval(stdin)
	if err := e.words(words); err != nil {
		return nil, err
	}
	return e.program, nil
}

// EvalText turns the text of a plashfile into a program. Errors begin with the
// file's name, as it is given, and a line number.
func EvalText(name, text string, stdin io.Reader) (*Program, error) {
	e := newEval(stdin)
	if err := e.text(name, text); err != nil {
		return nil, err
	}
	return e.program, nil
}

// eval is the state of one evaluation.
type eval struct {
	stdin   io.Reader
	program *Program
	defined map[string]func(args []string) error // macros of --defpm and --import, without dashes
	depth   int                                  // of macros that evaluate macros
}

func newEval(stdin io.Reader) *eval {
	return &eval{stdin: stdin, program: &Program{Layers: []string{""}}, defined: map[string]func([]string) error{}}
}

// maxDepth is how many macros may be evaluated by one another: more is a file
// that evaluates itself.
const maxDepth = 50

var errTooDeep = errors.New("nested too deep")

// words evaluates the words of a command line.
func (e *eval) words(words []string) error {
	if e.depth++; e.depth > maxDepth {
		return errTooDeep
	}
	defer func() { e.depth-- }()
	calls, err := splitWords(words)
	if err != nil {
		return err
	}
	for _, c := range calls {
		if err := e.call(c); err != nil {
			return err
		}
	}
	return nil
}

// text evaluates the text of a plashfile.
func (e *eval) text(name, text string) error {
	if e.depth++; e.depth > maxDepth {
		return errTooDeep
	}
	defer func() { e.depth-- }()
	calls, err := splitText(name, text)
	if err != nil {
		return err
	}
	for _, c := range calls {
		if err := e.call(c); err != nil {
			if errors.Is(err, errTooDeep) {
				return err // where it began says enough
			}
			return fmt.Errorf("%s:%d: %w", name, c.line, err)
		}
	}
	return nil
}

// call evaluates one macro with its arguments, or several whose one-letter
// names are written together, of which the last has the arguments.
func (e *eval) call(c call) error {
	names := apart(c.name)
	for i, name := range names {
		var args []string
		if i == len(names)-1 {
			args = c.args
		}
		if err := e.macro(name, args); err != nil {
			return err
		}
	}
	return nil
}

// macro evaluates the macro called name, dashes and all.
func (e *eval) macro(name string, args []string) error {
	if defined, ok := e.defined[strings.TrimPrefix(name, "--")]; ok && strings.HasPrefix(name, "--") {
		return wrap(name, defined(args))
	}
	m := lookup(name)
	if m == nil {
		return e.noSuchMacro(name)
	}
	if len(args) < m.min || m.max >= 0 && len(args) > m.max {
		return fmt.Errorf("%s: wrong number of arguments: %s", name, strings.TrimSpace(name+" "+m.args))
	}
	return wrap(name, m.expand(e, args))
}

// wrap puts the macro's name before an error.
func wrap(name string, err error) error {
	if err == nil || errors.Is(err, errTooDeep) {
		return err
	}
	return fmt.Errorf("%s: %w", name, err)
}

// noSuchMacro is the error about a macro that there is not, with the one that
// may have been meant.
func (e *eval) noSuchMacro(name string) error {
	var names []string
	for i := range table {
		for _, n := range table[i].names {
			if n = strings.TrimLeft(n, "-"); len(n) > 1 {
				names = append(names, n)
			}
		}
	}
	for n := range e.defined {
		names = append(names, n)
	}
	near := spell.Nearest(strings.TrimLeft(name, "-"), names)
	if near == "" {
		return fmt.Errorf("%s: no such macro", name)
	}
	return fmt.Errorf("%s: no such macro, did you mean --%s?", name, near)
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

// emitOutput is emitScript for what a program printed or a file holds.
func (e *eval) emitOutput(text string) error {
	if err := checkText(text); err != nil {
		return err
	}
	if text = strings.TrimSuffix(text, "\n"); text == "" {
		return nil
	}
	return e.emitScript([]string{text})
}

// checkText refuses the one byte that no word of a program may have.
func checkText(text string) error {
	if strings.Contains(text, "\x00") {
		return errors.New("has a NUL byte, which is no text")
	}
	return nil
}

// hint does what a hint line says; one of an unknown name stays a comment.
func (e *eval) hint(name, value string) error {
	switch name {
	case "layer":
		e.layer()
	case "image":
		return e.base(&Base{"image hint", fromID, []string{value}})
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
func (e *eval) base(b *Base) error {
	p := e.program
	if p.Base != nil || len(p.Layers) > 1 || p.Layers[0] != "" {
		return errors.New("only the first macro may give the base image")
	}
	p.Base = b
	return nil
}
