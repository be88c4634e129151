package main

import (
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// grammar is every command, each family's in a file of its own. A command's
// usage is made from its arguments, unless it has a tag that says it.
type grammar struct {
	importCommands
	exportCommands
	imageCommands
	runCommands
	sessionCommands
	showCommands
	buildCommands
	otherCommands
}

// newParser returns a parser for the grammar. It has no --help of its own: in
// a program's words, or in an id's place, that is a word like any other.
func newParser() *kong.Kong {
	return kong.Must(&grammar{}, kong.Name("plash"), kong.NoDefaultHelp())
}

// parse finds the command that words begin with and runs it.
func (p *plash) parse(words []string) error {
	parser := newParser()
	node := command(parser, words[0])
	if node == nil {
		return noSuchCommand(parser, words[0])
	}
	context, err := parser.Parse(append([]string{node.Name}, arrange(node, words[1:])...))
	if err != nil {
		return usageError(words[0] + strings.TrimPrefix(usage(node), node.Name))
	}
	return context.Run(p)
}

// command returns the command called name, today or in earlier days.
func command(parser *kong.Kong, name string) *kong.Node {
	for _, node := range parser.Model.Children {
		if node.Name == name || slices.Contains(node.Aliases, name) {
			return node
		}
	}
	return nil
}

// arrange puts a command's own options first and a -- behind them, so that kong
// takes what follows as it is. Kong by itself would refuse a word with a dash
// in an id's place, swallow a --, and look for options among the words of the
// program that is to run: there, everything after the first word is the
// program's own.
func arrange(node *kong.Node, words []string) []string {
	var options, rest []string
	leading := len(node.Positional) // arguments before the program's words
	if leading > 0 && node.Positional[leading-1].IsCumulative() {
		leading--
	} else {
		leading = len(words)
	}
	for i, word := range words {
		if isOption(node, word) {
			options = append(options, word)
			continue
		}
		if len(rest) == leading {
			rest = append(rest, words[i:]...)
			break
		}
		rest = append(rest, word)
	}
	return append(append(options, "--"), rest...)
}

// isOption tells whether word is one of the command's own options.
func isOption(node *kong.Node, word string) bool {
	name, ok := strings.CutPrefix(word, "--")
	if !ok {
		return false
	}
	for _, flag := range node.Flags {
		if flag.Name == name || slices.Contains(flag.Aliases, name) {
			return true
		}
	}
	return false
}

// usage returns a command's name and arguments, as ID [CMD…].
func usage(node *kong.Node) string {
	if node.Tag.Has("usage") {
		return node.Name + " " + node.Tag.Get("usage")
	}
	words := []string{node.Name}
	for _, argument := range node.Positional {
		word := argument.Name
		if argument.IsCumulative() {
			word += "…"
		}
		if !argument.Required {
			word = "[" + word + "]"
		}
		words = append(words, word)
	}
	for _, flag := range node.Flags {
		words = append(words, "[--"+flag.Name+"]")
	}
	return strings.Join(words, " ")
}
