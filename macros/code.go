package macros

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"plash/internal/errs"
)

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

func layer(e *eval, args []string) error {
	if len(args) == 0 {
		e.layer()
		return nil
	}
	for _, arg := range args[1:] {
		e.layer()
		if err := e.macro("--"+args[0], []string{arg}); err != nil {
			return err
		}
	}
	e.layer()
	return nil
}

func inline(e *eval, args []string) error {
	return e.emitScript([]string{strings.Join(args, " ")})
}

func runStdin(e *eval, _ []string) error {
	text, err := e.readStdin()
	if err != nil {
		return err
	}
	return e.emitOutput(text)
}

func (e *eval) readStdin() (string, error) {
	text, err := io.ReadAll(e.stdin)
	return string(text), errs.Path(stdinName, err)
}

const stdinName = "standard input"

// writeFile emits printf and not echo: dash's echo interprets backslashes.
func writeFile(e *eval, args []string) error {
	path, lines := quote(args[0]), args[1:]
	if len(lines) == 0 {
		e.emit(": > " + path)
	} else {
		e.emit(`printf '%s\n' ` + quoteAll(lines) + " > " + path)
	}
	return nil
}

func writeScript(e *eval, args []string) error {
	if err := writeFile(e, args); err != nil {
		return err
	}
	e.emit("chmod 755 " + quote(args[0]))
	return nil
}

func importEnv(e *eval, args []string) error {
	for _, arg := range args {
		name, as, renamed := strings.Cut(arg, ":")
		if !renamed {
			as = name
		}
		if err := checkName(as); err != nil {
			return err
		}
		if value, ok := os.LookupEnv(name); ok {
			e.emit("export " + as + "=" + quote(value))
		}
	}
	return nil
}

// checkName refuses what a shell would not take as a variable's name.
func checkName(name string) error {
	for i, c := range name {
		if c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9' {
			continue
		}
		return fmt.Errorf("%s: not a variable's name", name)
	}
	if name == "" {
		return errors.New("a variable's name must not be empty")
	}
	return nil
}

func hashPath(e *eval, args []string) error {
	for _, path := range args {
		hash, err := HashPath(path)
		if err != nil {
			return err
		}
		e.emit(": hash of " + quote(path) + ": " + hash)
	}
	return nil
}

func invalidateLayer(e *eval, _ []string) error {
	e.emit(": layer of " + time.Now().Format(time.RFC3339Nano))
	return nil
}

func hint(e *eval, args []string) error {
	return e.hint(args[0], strings.Join(args[1:], ""))
}
