package main

import (
	"errors"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"
	"plash/docs"
	"plash/internal/errs"
	"plash/macros"
)

// A command is one word of the command line. What may follow it, kong reads
// into a struct: the grammar of one command is small, and no start of plash
// pays for those of all others. What it does is said in docs/commands.md.
type command struct {
	name    string
	aliases []string   // its names of earlier days
	macros  bool       // in ID's place there may be macros
	args    func() any // returns the struct, a new one, with its method Run
}

// commands returns all commands; each family is in a file of its own.
func commands() []command {
	return slices.Concat(importCommands, exportCommands, imageCommands, runCommands, sessionCommands,
		showCommands, buildCommands, macroCommands, otherCommands)
}

// find returns the command called name, today or in earlier days, or nil.
func find(name string) *command {
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == name || slices.Contains(c.aliases, name) })
	if i < 0 {
		return nil
	}
	return &all[i]
}

// parser returns a parser for the command's words. It has no --help of its
// own: in a program's words that is a word like any other.
func (c *command) parser() *kong.Kong {
	return kong.Must(c.args(), kong.NoDefaultHelp(), kong.KindMapper(reflect.String, kong.MapperFunc(asItIs)))
}

// asItIs reads a word of any bytes. Kong's own way replaces what is not UTF-8.
func asItIs(context *kong.DecodeContext, target reflect.Value) error {
	token, err := context.Scan.PopValue("string")
	if err == nil {
		target.SetString(token.Value.(string))
	}
	return err
}

// parse finds the command that words begin with and runs it.
func (p *plash) parse(words []string) error {
	c := find(words[0])
	if c == nil {
		return noSuchCommand(words[0])
	}
	return p.execute(c, words[0], words[1:])
}

// execute runs a command, called by one of its names, with words.
func (p *plash) execute(c *command, name string, words []string) error {
	parser := c.parser()
	options, rest, err := arrange(parser.Model.Node, c.macros, words)
	if slices.Contains(options, helpOption) {
		return printSection(c)
	}
	var context *kong.Context
	if err == nil {
		context, err = parser.Parse(slices.Concat(options, []string{"--"}, rest))
	}
	if err != nil {
		return c.usage(name)
	}
	for i, argument := range parser.Model.Positional {
		if i < len(rest) && rest[i] == "" && slices.Contains(paths, argument.Name) {
			return errs.Path("''", unix.ENOENT)
		}
	}
	return context.Run(p)
}

// paths are the names of arguments that are paths. An empty one names nothing:
// it must not be taken for the working directory, or for one left out.
var paths = []string{"DIR", "CHANGESDIR", "FILE", "PATH"}

// helpOption is an option of every command, right behind its name.
const helpOption = "--help"

// arrange divides words into the command's own options and the rest, which
// kong must take as it is. Kong by itself would refuse a word with a dash in
// an id's place, swallow a --, and look for options among the words of the
// program that is to run: there, everything after the first word is the
// program's own. So it is after a macro in an id's place, if there may be one.
// An option that lacks its value is an error.
func arrange(node *kong.Node, mayBeMacro bool, words []string) (options, rest []string, err error) {
	leading := len(node.Positional) // arguments before the program's words
	if leading > 0 && node.Positional[leading-1].IsCumulative() {
		leading--
	} else {
		leading = len(words)
	}
	for len(words) > 0 {
		option, n := ownOption(node, words)
		if option == helpOption && len(rest) > 0 {
			n = 0 // plash exec PATH --help asks the program
		}
		switch {
		case n > len(words):
			return options, rest, errors.New(words[0] + ": its value is missing")
		case n > 0:
			options, words = append(options, option), words[n:]
			continue
		case len(rest) == leading || mayBeMacro && len(rest) == 0 && macros.IsMacro(words[0]):
			return options, append(rest, words...), nil
		}
		rest, words = append(rest, words[0]), words[1:]
	}
	return options, rest, nil
}

// ownOptions divides words into those options of the command that they begin
// with and what follows.
func (c *command) ownOptions(words []string) (options, rest []string) {
	node := c.parser().Model.Node
	for len(words) > 0 {
		option, n := ownOption(node, words)
		if n == 0 || n > len(words) {
			break
		}
		options, words = append(options, option), words[n:]
	}
	return options, words
}

// ownOption returns the option of the command that words begin with, in one
// word, and of how many of them it is made; 0 if they begin with none.
func ownOption(node *kong.Node, words []string) (option string, n int) {
	if words[0] == helpOption {
		return helpOption, 1
	}
	name, value, joined := strings.Cut(words[0], "=")
	for _, flag := range node.Flags {
		long := "--"+flag.Name == name || slices.ContainsFunc(flag.Aliases, func(alias string) bool { return "--"+alias == name })
		short := flag.Short != 0 && words[0] == "-"+string(flag.Short)
		switch {
		case !long && !short || joined && flag.IsBool():
		case flag.IsBool():
			return "--" + flag.Name, 1
		case joined:
			return "--" + flag.Name + "=" + value, 1
		case len(words) == 1:
			return "", 2
		default:
			return "--" + flag.Name + "=" + words[1], 2
		}
	}
	return "", 0
}

// usage is the error that says what may follow the command, under the name
// that it was called by.
func (c *command) usage(name string) error {
	section, _ := docs.Find(c.name)
	return usageError(name + strings.TrimPrefix(section.Synopsis, c.name))
}
