package main

import (
	"fmt"
	"strings"

	"plash/docs"
	"plash/macros"
)

type helpCommand struct {
	Command string `arg:"" optional:"" name:"COMMAND"`
}

// Run prints all about one command, or the list of all.
func (c *helpCommand) Run() error {
	if command := find(c.Command); command != nil {
		return printSection(command)
	}
	var b strings.Builder
	group := ""
	synopses := map[string]string{}
	for _, section := range docs.Sections() {
		if section.Group != group {
			if group != "" {
				b.WriteByte('\n')
			}
			group = section.Group
			fmt.Fprintf(&b, "%s:\n", group)
		}
		fmt.Fprintln(&b, section.Line())
		synopses[section.Name] = section.Synopsis
	}
	fmt.Fprintln(&b, "\nEarlier Names:")
	for _, c := range commands() {
		for _, alias := range c.aliases {
			fmt.Fprintf(&b, "plash %s%s  -  %s\n", alias, strings.TrimPrefix(synopses[c.name], c.name), c.name)
		}
	}
	b.WriteString("plash --help, -h  -  help\nplash --help-macros  -  help-macros\nplash --version  -  version")
	return printLine(b.String())
}

// printSection prints all about a command.
func printSection(c *command) error {
	section, _ := docs.Find(c.name)
	return printLine(strings.TrimSuffix(section.Plain(), "\n"))
}

type helpMacrosCommand struct{}

// Run lists the macros.
func (c *helpMacrosCommand) Run() error {
	return printLine(strings.TrimSuffix(macros.Help(), "\n"))
}
