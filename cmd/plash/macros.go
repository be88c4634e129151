package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"plash/internal/errs"
	"plash/internal/rawjson"
	"plash/launcher"
	"plash/macros"
	"plash/store"
)

var macroCommands = []command{
	{name: "b", args: func() any { return new(bCommand) }},
	{name: "exec", args: func() any { return new(execCommand) }},
	{name: "eval", args: func() any { return new(evalCommand) }},
	{name: "eval-plashfile", args: func() any { return new(evalPlashfileCommand) }},
}

// buildAndPrint is plash build MACROS.
func (p *plash) buildAndPrint(words []string, o *placeOptions) error {
	id, err := p.buildMacros(words, o)
	if err != nil {
		return err
	}
	return printID(id)
}

// buildAndRun is plash --MACRO… [-- CMD…], a command without a name.
var buildAndRun = command{name: "--MACRO…", args: func() any { return new(buildAndRunCommand) }}

type buildAndRunCommand struct {
	placeOptions
	Words []string `arg:"" optional:"" name:"MACROS"`
}

func (c *buildAndRunCommand) Run(p *plash) error {
	words, command := cut(c.Words)
	id, err := p.buildMacros(words, &placeOptions{})
	if err != nil {
		return err
	}
	return p.run(id.String(), command, &c.placeOptions)
}

// cut splits words at the first --.
func cut(words []string) (before, after []string) {
	if i := slices.Index(words, "--"); i >= 0 {
		return words[:i], words[i+1:]
	}
	return words, nil
}

type bCommand struct {
	Words []string `arg:"" optional:"" name:"COMMAND"`
}

func (c *bCommand) Run(p *plash) error {
	words, after := cut(c.Words)
	if len(c.Words) == 0 {
		return fmt.Errorf("%w: %w", find("b").usage("b"), errNoMacros)
	}
	if len(words) == 0 || !slices.ContainsFunc(words, macros.IsMacro) {
		return errNoMacros
	}
	if macros.IsMacro(words[0]) {
		return find("b").usage("b")
	}
	command := find(words[0])
	if command == nil {
		return noSuchCommand(words[0])
	}
	// Its options look like macros.
	options, rest := command.ownOptions(words[1:])
	n := slices.IndexFunc(rest, macros.IsMacro)
	if n < 0 {
		return errNoMacros
	}
	id, err := p.buildMacros(rest[n:], &placeOptions{})
	if err != nil {
		return err
	}
	return p.dispatch(slices.Concat(words[:1], options, []string{id.String()}, rest[:n], after))
}

type execCommand struct {
	Path string   `arg:"" name:"PATH"`
	Args []string `arg:"" optional:"" name:"ARG"`
}

func (c *execCommand) Run(p *plash) error { return p.exec(c.Path, c.Args) }

// exec builds the plashfile at path, in its own directory, and runs its
// entrypoint in the caller's.
func (p *plash) exec(path string, args []string) error {
	id, err := p.buildFile(path)
	if err != nil {
		return err
	}
	s, err := openStore()
	if err != nil {
		return err
	}
	meta, err := s.Meta(id)
	if err != nil {
		return err
	}
	if len(meta.Entrypoint) == 0 {
		return fmt.Errorf("%s: no entrypoint: the macro --entrypoint gives it one", path)
	}
	if len(args) > 0 {
		args = slices.Concat(meta.Entrypoint, args)
	}
	return p.run(id.String(), args, &placeOptions{})
}

// buildFile returns the image of the plashfile at path.
func (p *plash) buildFile(path string) (store.ID, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return 0, errs.Path(path, err)
	}
	text, err := os.ReadFile(resolved)
	if err != nil {
		return 0, errs.Path(path, err)
	}
	// A data directory that is named from here must be found from there too.
	if dir, err := store.DefaultDir(); err == nil && !filepath.IsAbs(dir) {
		if dir, err = filepath.Abs(dir); err != nil {
			return 0, errs.Path(dir, err)
		}
		os.Setenv("PLASH_DATA", dir)
	}
	here, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, errs.Path(".", err)
	}
	defer unix.Close(here)
	if err := os.Chdir(filepath.Dir(resolved)); err != nil {
		return 0, errs.Path(path, err)
	}
	program, err := macros.EvalText(path, string(text), os.Stdin)
	if err != nil {
		return 0, err
	}
	id, err := p.build(program, &placeOptions{})
	if err != nil {
		return 0, err
	}
	return id, errs.Path(".", unix.Fchdir(here))
}

type evalCommand struct {
	Words []string `arg:"" optional:"" name:"MACROS"`
}

func (c *evalCommand) Run(p *plash) error {
	program, err := evaluate(c.Words)
	if err != nil {
		return err
	}
	return p.printScript(program)
}

type evalPlashfileCommand struct {
	File string `arg:"" optional:"" name:"FILE"`
}

func (c *evalPlashfileCommand) Run(p *plash) error {
	words := []string{"--eval-stdin"}
	if c.File != "" && c.File != "-" {
		words = []string{"--eval-file", `--\ ` + c.File}
	}
	program, err := macros.Eval(words, os.Stdin)
	if err != nil {
		return err
	}
	return p.printScript(program)
}

// printScript prints a program's script. A base image gets its id by being
// imported.
func (p *plash) printScript(program *macros.Program) error {
	base := store.ID(0)
	if program.Base != nil {
		var err error
		if base, err = p.build(&macros.Program{Base: program.Base}, &placeOptions{}); err != nil {
			return err
		}
	}
	_, err := os.Stdout.WriteString(program.Script(base))
	return errs.Path("standard output", err)
}

// buildMacros returns the image that macros build, with options for the steps.
func (p *plash) buildMacros(words []string, o *placeOptions) (store.ID, error) {
	program, err := evaluate(words)
	if err != nil {
		return 0, err
	}
	return p.build(program, o)
}

var errNoMacros = errors.New("no build arguments")

// evaluate evaluates macros. It is done once: they may read standard input.
func evaluate(words []string) (*macros.Program, error) {
	if len(words) == 0 {
		return nil, errNoMacros
	}
	return macros.Eval(words, os.Stdin)
}

// build returns the program's image. What was not built before is built by a
// plash of its own, which is userspace root, so that this one stays what it is,
// with its standard input and output and its user, for the program that comes
// after.
func (p *plash) build(program *macros.Program, o *placeOptions) (store.ID, error) {
	builder := macros.Builder{}
	if program.Base != nil { // else the data directory is not needed, and not made
		var err error
		if builder.Store, err = initStore(); err != nil {
			return 0, err
		}
	}
	id, err := builder.Build(program)
	if err != macros.ErrUncached {
		return id, err
	}
	text, err := rawjson.Marshal(buildRequest{*program, *o})
	if err != nil {
		return 0, err
	}
	stdin, err := memoryFile(text)
	if err != nil {
		return 0, err
	}
	defer stdin.Close()
	var printed bytes.Buffer
	status, err := p.againAsRoot([]string{builderWord}, stdin, &printed)
	if err != nil {
		return 0, err
	}
	if status != (launcher.Status{}) {
		status.Exit() // it has said why
	}
	return store.ParseID(strings.TrimSpace(printed.String()))
}

// memoryFile returns a file of which only its descriptor exists.
func memoryFile(data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("plash", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory file: %s", errs.Text(err))
	}
	f := os.NewFile(uintptr(fd), "memory file")
	if _, err := f.WriteAt(data, 0); err != nil {
		f.Close()
		return nil, errs.Path("memory file", err)
	}
	return f, nil
}

// A buildRequest is what a plash that builds for another one is told.
type buildRequest struct {
	Program macros.Program
	Options placeOptions
}

// builderWord is the first word of a plash that builds for another one. It has
// a blank in it, so that nobody means it as a command.
const builderWord = "build for another"

// buildForAnother builds what standard input asks for, and prints its id.
func (p *plash) buildForAnother() error {
	stdout, err := divertOutput()
	if err != nil {
		return err
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return errs.Path("standard input", err)
	}
	var request buildRequest
	if err := rawjson.Unmarshal(text, &request); err != nil {
		return errs.Path("standard input", err)
	}
	if err := closeInput(); err != nil {
		return err
	}
	s, err := initStore()
	if err != nil {
		return err
	}
	builder := macros.Builder{Store: s, Progress: os.Stderr, Step: func(parent store.ID, code string, command []string) (store.ID, error) {
		img, err := loadImage(s, parent)
		if err != nil {
			return 0, err
		}
		return p.step(s, img, command, &request.Options, code)
	}}
	id, err := builder.Build(&request.Program)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, id)
	return errs.Path("standard output", err)
}

// closeInput makes /dev/null standard input.
func closeInput() error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	return unix.Dup3(int(null.Fd()), 0, 0)
}
