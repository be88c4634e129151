package macros

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"plash/importers"
	"plash/store"
)

// A macro is one entry of the build language.
type macro struct {
	names    []string // as written, dashes and all; the first is the usual one
	args     string   // for the list of macros
	help     string
	min, max int // how many arguments it takes; max < 0: any number
	expand   func(e *eval, args []string) error
}

// table holds all macros but the package managers', which are data
// (installers.go). It is filled by init because --layer, itself an entry,
// looks macros up in it.
var table []macro

func init() {
	table = []macro{
		{[]string{"--from", "-f", "--f"}, "IMAGE", "base image: an id, or host for the running system's own root", 1, 1, from},
		{[]string{"--from-id"}, "ID", "base image by its id", 1, 1, fromID},
		{[]string{"--from-url"}, "URL", "base image from an archive, downloaded once", 1, 1, fromURL},
		{[]string{"--from-map"}, "KEY", "base image that a key of the map names", 1, 1, fromMap},
		{[]string{"--layer", "-l"}, "[MACRO ARG…]", "start a new layer; with MACRO (without dashes) each ARG gets a layer of its own", 0, -1, layer},
		{[]string{"--run", "-x"}, "LINE…", "lines of shell code", 0, -1, (*eval).emitLines},
		{[]string{"--inline"}, "WORD…", "the words, on one line of shell code", 0, -1, inline},
		{[]string{"--defpm"}, "NAME LINE…", "define a package manager's macro; {} stands for the packages", 2, -1, defpm},
		{[]string{"--write-file"}, "PATH LINE…", "write a file of these lines", 1, -1, writeFile},
		{[]string{"--write-script"}, "PATH LINE…", "write an executable file of these lines", 1, -1, writeScript},
		{[]string{"--entrypoint"}, "WORD…", "what runs when no command is given", 1, -1, entrypoint},
		{[]string{"--entrypoint-script"}, "LINE…", "the same, as a script of these lines", 1, -1, entrypointScript},
		{[]string{"--env"}, "NAME[=VALUE]…", "variables set, or taken from the host, when it runs", 1, -1, env},
		{[]string{"--env-prefix"}, "PREFIX…", "take the host's variables that begin so when it runs", 1, -1, envPrefix},
		{[]string{"--import-env"}, "NAME[:AS]…", "export variables with their values at build time", 1, -1, importEnv},
		{[]string{"--hash-path"}, "PATH…", "make the layer depend on what is at PATH", 1, -1, hashPath},
		{[]string{"--invalidate-layer"}, "", "build the layer anew each time", 0, 0, invalidateLayer},
		{[]string{"--hint"}, "NAME [VALUE]", "a hint line in the script", 1, 2, hint},
		{[]string{"--#", "-#"}, "WORD…", "a comment", 0, -1, func(*eval, []string) error { return nil }},
	}
}

// lookup finds the macro written as name.
func lookup(name string) (*macro, bool) {
	for i := range table {
		for _, n := range table[i].names {
			if n == name {
				return &table[i], true
			}
		}
	}
	return nil, false
}

// Help lists the macros, one a line.
func Help() string {
	var b strings.Builder
	for _, m := range table {
		fmt.Fprintf(&b, "%s %s  -  %s\n", strings.Join(m.names, ", "), m.args, m.help)
	}
	for _, name := range installerNames() {
		fmt.Fprintf(&b, "--%s PACKAGE…  -  install packages with %s\n", name, name)
	}
	return strings.ReplaceAll(b.String(), "   -  ", "  -  ")
}

func from(e *eval, args []string) error {
	switch image := args[0]; {
	case isNumber(image):
		return fromID(e, args)
	case image == "host":
		return e.cachedBase("from:host", importers.Host)
	default:
		return fmt.Errorf("%s: not a base image: an id or host is one, --from-url takes an archive", image)
	}
}

func fromID(e *eval, args []string) error {
	id, err := store.ParseID(args[0])
	if err != nil {
		return err
	}
	return e.base(id)
}

func fromURL(e *eval, args []string) error {
	key := fmt.Sprintf("from:url:%x", sha256.Sum256([]byte(args[0])))
	return e.cachedBase(key, func(s *store.Store) (store.ID, error) {
		return importers.URL(s, args[0], e.options.Progress)
	})
}

func fromMap(e *eval, args []string) error {
	s, err := e.options.Store()
	if err != nil {
		return err
	}
	id, err := s.Map(args[0])
	if err != nil {
		return err
	}
	if id == 0 {
		return fmt.Errorf("%s: no such key in the map", args[0])
	}
	return e.base(id)
}

func layer(e *eval, args []string) error {
	if len(args) == 0 {
		e.layer()
		return nil
	}
	name := "--" + args[0]
	if len(args[0]) == 1 {
		name = "-" + args[0]
	}
	for _, arg := range args[1:] {
		e.layer()
		if err := e.call(name, []string{arg}); err != nil {
			return err
		}
	}
	e.layer()
	return nil
}

func (e *eval) emitLines(args []string) error { return e.emitScript(args) }

func inline(e *eval, args []string) error {
	return e.emitScript([]string{strings.Join(args, " ")})
}

func defpm(e *eval, args []string) error {
	e.installers[args[0]] = args[1:]
	return nil
}

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

// entrypoint keeps words as they are; a single one with blanks in it is shell
// text, to which the command line's arguments are added.
func entrypoint(e *eval, args []string) error {
	if len(args) == 1 && strings.ContainsAny(args[0], " \t\n") {
		args = []string{"/bin/sh", "-c", args[0] + ` "$@"`, "sh"}
	}
	e.program.entrypoint = args
	return nil
}

// entrypointPath is where --entrypoint-script puts its script.
const entrypointPath = "/entrypoint"

func entrypointScript(e *eval, lines []string) error {
	if !strings.HasPrefix(lines[0], "#!") {
		lines = append([]string{"#!/bin/sh"}, lines...)
	}
	e.program.entrypoint = []string{entrypointPath}
	return writeScript(e, append([]string{entrypointPath}, lines...))
}

func env(e *eval, args []string) error {
	for _, arg := range args {
		name, _, set := strings.Cut(arg, "=")
		if err := checkName(name); err != nil {
			return err
		}
		if set {
			e.program.env = append(e.program.env, arg)
		} else {
			e.program.envNames = append(e.program.envNames, name)
		}
	}
	return nil
}

func envPrefix(e *eval, args []string) error {
	for _, arg := range args {
		if err := checkName(arg); err != nil {
			return err
		}
	}
	e.program.envPrefixes = append(e.program.envPrefixes, args...)
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
		value, ok := os.LookupEnv(name)
		if !ok {
			return fmt.Errorf("%s: no such variable in the environment", name)
		}
		e.emit("export " + as + "=" + quote(value))
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
