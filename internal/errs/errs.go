// Package errs words errors the way users of Unix tools expect them: the
// object, a colon, and the C library's text of the cause, each once.
package errs

import (
	"errors"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// Path returns an error that reads "PATH: CAUSE", CAUSE being Text(err), and
// that unwraps to err. It returns nil if err is nil.
func Path(path string, err error) error {
	if err == nil {
		return nil
	}
	return &pathError{path, err}
}

type pathError struct {
	path string
	err  error
}

func (e *pathError) Error() string { return e.path + ": " + Text(e.err) }
func (e *pathError) Unwrap() error { return e.err }

// Text returns what err says in one line: for a system call's error the C
// library's text of its number ("No such file or directory"), without the
// operation and path that Go's wrappers repeat; else its own text with line
// breaks folded into blanks.
func Text(err error) string {
	var own *pathError
	var errno syscall.Errno
	if !errors.As(err, &own) && errors.As(err, &errno) {
		text := errno.Error()
		r, n := utf8.DecodeRuneInString(text)
		return string(unicode.ToUpper(r)) + text[n:]
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}
