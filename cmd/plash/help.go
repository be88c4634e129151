package main

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
	"plash/macros"
)

// groups are the groups of commands in the order in which help shows them.
var groups = []string{"Import Image", "Export Image", "Image Commands", "Other Commands"}

type helpCommand struct {
	Command string `arg:"" optional:"" name:"COMMAND"`
}

// Run prints the help of one command, or of all.
func (c *helpCommand) Run() error {
	parser := newParser()
	if node := command(parser, c.Command); node != nil {
		printHelp(node)
		return nil
	}
	for _, group := range groups {
		fmt.Println(group + ":")
		for _, node := range parser.Model.Children {
			if node.Group.Key == group {
				printHelp(node)
			}
		}
		fmt.Println()
	}
	fmt.Println("Earlier Names:")
	for _, node := range parser.Model.Children {
		for _, alias := range node.Aliases {
			fmt.Printf("plash %s%s  -  %s\n", alias, strings.TrimPrefix(usage(node), node.Name), node.Name)
		}
	}
	fmt.Print("plash --help, -h  -  help\nplash --help-macros  -  help-macros\nplash --version  -  version\n")
	return nil
}

func printHelp(node *kong.Node) {
	fmt.Printf("plash %s  -  %s\n", usage(node), node.Help)
}

type helpMacrosCommand struct{}

// Run lists the macros.
func (c *helpMacrosCommand) Run() error {
	fmt.Print(macros.Help())
	return nil
}
