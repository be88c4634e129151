package main

import (
	"slices"
	"strings"
	"testing"

	"plash/docs"
)

// TestArrange: options stand before or after an id, but never behind the first
// word of a program, and only a command's own options are options.
func TestArrange(t *testing.T) {
	for _, c := range []struct{ words, want string }{
		{"nodepath 5 --allow-0", "--allow-root-container -- 5"},
		{"nodepath --allow-root-container 5", "--allow-root-container -- 5"},
		{"nodepath -- -1", "-- -- -1"},
		{"run --hepl -x", "-- --hepl -x"},
		{"run 5 cmd --help --", "-- 5 cmd --help --"},
		{"run --bind a:b 5 --env=X=y cmd --bind c", "--bind=a:b --env=X=y -- 5 cmd --bind c"},
		{"run --bind --env 5", "--bind=--env -- 5"},
		{"run --no-default-binds=x 5", "-- --no-default-binds=x 5"},
		{"runopts -n -b a 5 -c dir x -b", "--no-default-binds --bind=a --changes=dir -- 5 x -b"},
		{"data --yes -- --", "-- --yes -- --"},
		{"purge --yes", "--yes --"},
		{"clean --clean-tmp x --clean-index", "--clean-tmp --clean-index -- x"},
		{"build 5 x --", "-- 5 x --"},
		{"build --workdir / 5 --bind a x --bind b", "--workdir=/ --bind=a -- 5 x --bind b"},
		{"build --bind a --layer --bind b", "--bind=a -- --layer --bind b"},
		{"cache --help", "--help --"},
		{"run --env A=b --help", "--env=A=b --help --"},
		{"run 5 --help", "-- 5 --help"},
		{"exec ./file --help -v", "-- ./file --help -v"},
	} {
		words := strings.Fields(c.words)
		command := find(words[0])
		options, rest, err := arrange(command.parser().Model.Node, command.macros, words[1:])
		if got := slices.Concat(options, []string{"--"}, rest); err != nil || !slices.Equal(got, strings.Fields(c.want)) {
			t.Errorf("%s: got %q, %v, want %q", c.words, got, err, c.want)
		}
	}
	run := find("run")
	if _, _, err := arrange(run.parser().Model.Node, false, []string{"5", "--bind"}); err == nil {
		t.Error("an option without its value is taken")
	}
}

// TestDocumented: docs/commands.md has a section for each command and for no
// other, which names what the grammar has: arguments, options, earlier names.
func TestDocumented(t *testing.T) {
	all := append(commands(), buildAndRun)
	for _, section := range docs.Sections() {
		if !slices.ContainsFunc(all, func(c command) bool { return c.name == section.Name }) {
			t.Errorf("%s: no such command", section.Name)
		}
	}
	seen := map[string]bool{}
	for _, c := range all {
		for _, name := range append(c.aliases, c.name) {
			if seen[name] {
				t.Errorf("%s: twice", name)
			}
			seen[name] = true
		}
		section, ok := docs.Find(c.name)
		if !ok {
			t.Errorf("%s: not in docs/commands.md", c.name)
			continue
		}
		if section.Summary == "" || strings.HasSuffix(section.Summary, ".") || section.Group == "" {
			t.Errorf("%s: group %q, summary %q", c.name, section.Group, section.Summary)
		}
		for _, alias := range c.aliases {
			if !strings.Contains(section.Text, "`"+alias+"`") {
				t.Errorf("%s: its earlier name %s is not told", c.name, alias)
			}
		}
		model := c.parser().Model
		switch c.name {
		case "union", "build", "b", "eval", "noid", "--MACRO…": // which read their words themselves
		default:
			for _, argument := range model.Positional {
				word := argument.Name
				if argument.IsCumulative() {
					word += "…"
				}
				if !argument.Required {
					word = "[" + word + "]"
				}
				if !strings.Contains(section.Synopsis+" ", strings.Trim(word, "[]")) {
					t.Errorf("%s: no %s in %q", c.name, word, section.Synopsis)
				}
			}
		}
		var documented, own []string
		for _, option := range section.Options() {
			for _, form := range option.Forms {
				if strings.HasPrefix(form, "-") && c.name != "union" {
					name, _, _ := strings.Cut(form, " ")
					documented = append(documented, name)
				}
			}
		}
		for _, flag := range model.Flags {
			name := "--" + flag.Name
			if flag.Short != 0 {
				name = "-" + string(flag.Short)
			}
			own = append(own, name)
			for _, alias := range flag.Aliases {
				own = append(own, "--"+alias)
			}
		}
		slices.Sort(documented)
		slices.Sort(own)
		if !slices.Equal(documented, own) {
			t.Errorf("%s: options %q, docs/commands.md has %q", c.name, own, documented)
		}
	}
}

// TestParseBind: each form that there is, and what is none.
func TestParseBind(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"/a", "/a "}, {"a:/b", "a /b"}, {"/a:/b:ro", "/a /b ro"}, {"/a::ro", "/a  ro"}, {"/a:", "/a "},
		{"", ""}, {":/b", ""}, {"/a:b", ""}, {"/a:/b:rw", ""}, {"/a:/b:ro:", ""},
	} {
		bind, err := parseBind(c.text)
		got := bind.Src + " " + bind.Dst
		if bind.ReadOnly {
			got += " ro"
		}
		if err != nil {
			got = ""
		}
		if got != c.want {
			t.Errorf("%s: got %q, %v, want %q", c.text, got, err, c.want)
		}
	}
}
