package macros

import (
	"fmt"
	"strings"

	"plash/internal/errs"
)

// A call is a macro as it was written, with its arguments.
type call struct {
	name string // dashes and all
	args []string
	line int // where it stands in a text
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

// splitWords finds the calls in the words of a command line.
func splitWords(words []string) ([]call, error) {
	var calls []call
	for _, word := range words {
		text, literal := literal(word)
		switch {
		case !literal && strings.HasPrefix(word, "-"):
			calls = append(calls, call{name: word})
		case len(calls) == 0:
			return nil, notMacro(word)
		default:
			last := &calls[len(calls)-1]
			last.args = append(last.args, text)
		}
	}
	return calls, nil
}

// splitText finds the calls in the text of a plashfile, one argument a line. A
// first line that says by what the file is to be executed does not count. A
// line that begins with a dash is a macro, and the further words on it are
// arguments, dashes or not. A comment with its text on the same line is as good
// as not there: what follows still belongs to the macro before it. Errors begin
// with name.
func splitText(name, text string) ([]call, error) {
	if err := checkText(text); err != nil {
		return nil, errs.Path(name, err)
	}
	var calls []call
	var blank []string // lines that count only if another one comes
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		text, literal := literal(line)
		switch {
		case number == 1 && strings.HasPrefix(line, "#!"):
		case !literal && strings.HasPrefix(line, "-"):
			words := strings.FieldsFunc(line, isBlank)
			bare := len(words) == 1 && strings.TrimLeft(words[0], "-") == "#"
			if isComment(words[0]) && !bare {
				continue
			}
			calls = append(calls, call{words[0], words[1:], number})
			blank = nil
		case !literal && strings.TrimLeft(line, " \t") == "":
			blank = append(blank, line)
		case len(calls) == 0:
			return nil, fmt.Errorf("%s:%d: %w", name, number, notMacro(line))
		default:
			last := &calls[len(calls)-1]
			if last.takesBlank() {
				last.args = append(last.args, blank...)
			}
			last.args = append(last.args, text)
			blank = nil
		}
	}
	return calls, nil
}

// takesBlank tells whether a blank line before a further argument counts: that
// of a macro whose arguments are lines, behind the first of these.
func (c *call) takesBlank() bool {
	names := apart(c.name)
	m := lookup(names[len(names)-1])
	return m != nil && m.lines && len(c.args) > m.min
}

// notMacro is the error about a value where a macro should stand.
func notMacro(word string) error {
	return fmt.Errorf("%s: a macro must stand here, such as --run", word)
}

// literal returns what an argument stands for: TEXT for `--\ TEXT`, which is
// told, nothing for `--\`, itself otherwise.
func literal(word string) (text string, is bool) {
	if word == `--\` {
		return "", true
	}
	if text, is = strings.CutPrefix(word, `--\ `); is {
		return text, true
	}
	return word, false
}

// isComment tells whether a macro's name begins a comment.
func isComment(name string) bool {
	return strings.HasPrefix(name, "--#") || strings.HasPrefix(name, "-#")
}

func isBlank(r rune) bool { return r == ' ' || r == '\t' }

// apart takes one-letter macros apart that are written together: -lx is -l -x.
func apart(name string) []string {
	if len(name) < 3 || name[1] == '-' || lookup(name) != nil {
		return []string{name}
	}
	var names []string
	for _, letter := range []byte(name[1:]) {
		one := "-" + string(letter)
		if lookup(one) == nil {
			return []string{name}
		}
		names = append(names, one)
	}
	return names
}
