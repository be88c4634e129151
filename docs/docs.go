// Package docs holds what there is to say about each command: commands.md, a
// page for people, which plash help prints and of which the manual pages are
// made. Each command has a section there, whose heading is its synopsis, whose
// first line says in short what it does, and whose last list has its options.
package docs

import (
	_ "embed"
	"strings"
)

//go:embed commands.md
var page string

// A Section is what the page says about one command.
type Section struct {
	Name     string // run
	Synopsis string // run ID [CMD…]
	Group    string // the heading above it
	Summary  string // one line
	Text     string // the rest: Markdown, paragraphs and lists
}

// Intro returns what the page says about all commands.
func Intro() string {
	intro, _, _ := strings.Cut(page, "\n## ")
	_, intro, _ = strings.Cut(intro, "\n")
	return strings.TrimSpace(intro)
}

// Sections returns all commands' sections, in the page's order.
func Sections() []Section {
	var list []Section
	group := ""
	for part := range strings.SplitSeq(page, "\n## ") {
		group, part, _ = strings.Cut(part, "\n")
		commands := strings.Split(part, "\n### plash ")
		for _, text := range commands[1:] {
			s := Section{Group: group}
			s.Synopsis, text, _ = strings.Cut(text, "\n")
			s.Name, _, _ = strings.Cut(s.Synopsis, " ")
			s.Summary, s.Text, _ = strings.Cut(strings.TrimSpace(text), "\n")
			s.Text = strings.TrimSpace(s.Text)
			list = append(list, s)
		}
	}
	return list
}

// Find returns the section of the command called name.
func Find(name string) (Section, bool) {
	for _, s := range Sections() {
		if s.Name == name {
			return s, true
		}
	}
	return Section{}, false
}

// Line returns the section in one line, as a list of commands has it.
func (s Section) Line() string { return "plash " + s.Synopsis + "  -  " + s.Summary }

// Plain returns the section for a terminal.
func (s Section) Plain() string {
	plain := s.Line() + "\n"
	if s.Text != "" {
		plain += "\n" + s.Text + "\n"
	}
	var b strings.Builder
	for line := range strings.Lines(plain) {
		line = strings.ReplaceAll(line, "`", "")
		switch {
		case strings.HasPrefix(line, "- "):
			line = "  " + line[2:]
		case strings.HasPrefix(line, "  ") && !strings.HasPrefix(line, "    "):
			line = "    " + line // an item goes on
		}
		b.WriteString(line)
	}
	return b.String()
}

// An Option is one entry of a section's lists.
type Option struct {
	Forms []string // as written: --bind SRC[:DST[:ro]]
	Text  string   // in one line
}

// Options returns the entries of the section's lists.
func (s Section) Options() []Option {
	var list []Option
	var item string
	end := func() {
		if item == "" {
			return
		}
		// The forms are what is quoted before the colon.
		forms, text, _ := strings.Cut(item, "`: ")
		list = append(list, Option{strings.Split(strings.TrimPrefix(forms, "`"), "`, `"), text})
		item = ""
	}
	for line := range strings.SplitSeq(s.Text, "\n") {
		switch first, ok := strings.CutPrefix(line, "- "); {
		case ok:
			end()
			item = first
		case item != "" && strings.HasPrefix(line, "  "):
			item += " " + strings.TrimSpace(line)
		default:
			end()
		}
	}
	end()
	return list
}
