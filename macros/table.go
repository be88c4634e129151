package macros

import (
	"fmt"
	"strings"
)

// A macro is one entry of the build language.
type macro struct {
	names    []string // as written, dashes and all; the first is the usual one
	args     string   // for the list of macros
	help     string
	min, max int  // how many arguments it takes; max < 0: any number
	lines    bool // the arguments behind the first min are lines of a text
	expand   func(e *eval, args []string) error
}

// table holds all macros. It is filled by init because --layer, itself an
// entry, looks macros up in it.
var table []macro

func init() {
	table = []macro{
		{names: []string{"--from", "-f", "--f"}, args: "IMAGE", help: "base image: an id, host for the running system's own root, or an image of the LXC image server, DISTRO[:VERSION]", min: 1, max: 1, expand: from},
		{names: []string{"--from-id"}, args: "ID", help: "base image by its id", min: 1, max: 1, expand: baseOf("--from-id", fromID)},
		{names: []string{"--from-lxc"}, args: "DISTRO[:VERSION]", help: "base image from the LXC image server, imported once", min: 1, max: 1, expand: baseOf("--from-lxc", fromLXC)},
		{names: []string{"--from-url"}, args: "URL", help: "base image from an archive, downloaded once", min: 1, max: 1, expand: baseOf("--from-url", fromURL)},
		{names: []string{"--from-map"}, args: "KEY", help: "base image that a key of the map names", min: 1, max: 1, expand: baseOf("--from-map", fromMap)},
		{names: []string{"--from-github"}, args: "USER/REPO [FILE]", help: "base image from a plashfile of a GitHub repository, built once", min: 1, max: 2, expand: baseOf("--from-github", fromGitHub)},
		{names: []string{"--layer", "-l", "--l"}, args: "[MACRO ARG…]", help: "start a new layer; with MACRO (without dashes) each ARG gets a layer of its own", max: -1, expand: layer},
		{names: []string{"--run", "-x", "--x"}, args: "LINE…", help: "lines of shell code", max: -1, lines: true, expand: (*eval).emitScript},
		{names: []string{"--run-stdin"}, help: "lines of shell code from standard input", expand: runStdin},
		{names: []string{"--inline"}, args: "WORD…", help: "the words, on one line of shell code", max: -1, expand: inline},
		{names: []string{"--defpm"}, args: "NAME LINE…", help: "define a package manager's macro; {} stands for the packages", min: 2, max: -1, expand: defpm},
		{names: []string{"--write-file"}, args: "PATH LINE…", help: "write a file of these lines", min: 1, max: -1, lines: true, expand: writeFile},
		{names: []string{"--write-script"}, args: "PATH LINE…", help: "write an executable file of these lines", min: 1, max: -1, lines: true, expand: writeScript},
		{names: []string{"--entrypoint"}, args: "WORD…", help: "what runs when no command is given; a single WORD with blanks in it is shell code", min: 1, max: -1, expand: entrypoint},
		{names: []string{"--entrypoint-script"}, args: "LINE…", help: "the same, as a script of these lines", max: -1, lines: true, expand: entrypointScript},
		{names: []string{"--env"}, args: "NAME[=VALUE]…", help: "variables set, or taken from the host, when it runs", min: 1, max: -1, expand: env},
		{names: []string{"--env-prefix"}, args: "PREFIX…", help: "take the host's variables that begin so when it runs", min: 1, max: -1, expand: envPrefix},
		{names: []string{"--mount"}, args: "SRC[:DST]…", help: "directories and files of the host that are bound when it runs", min: 1, max: -1, expand: mount},
		{names: []string{"--import-env"}, args: "NAME[:AS]…", help: "export variables with their values at build time, those that are set", min: 1, max: -1, expand: importEnv},
		{names: []string{"--import"}, args: "PATH…", help: "an executable, or those in a directory, as macros: what they print is shell code", min: 1, max: -1, expand: importPaths},
		{names: []string{"--hash-path"}, args: "PATH…", help: "make the layer depend on what is at PATH", min: 1, max: -1, expand: hashPath},
		{names: []string{"--invalidate-layer"}, help: "build the layer anew each time", expand: invalidateLayer},
		{names: []string{"--eval-file"}, args: "FILE", help: "macros from a plashfile", min: 1, max: 1, expand: evalFile},
		{names: []string{"--eval-stdin"}, help: "macros from a plashfile that comes on standard input", expand: evalStdin},
		{names: []string{"--eval-string"}, args: "STRING", help: "macros from one string, split into words as a shell does", min: 1, max: 1, expand: evalString},
		{names: []string{"--eval-url"}, args: "URL", help: "macros from a plashfile that is downloaded", min: 1, max: 1, expand: evalURL},
		{names: []string{"--eval-github"}, args: "USER/REPO [FILE]", help: "macros from a plashfile of a GitHub repository; FILE is plashfile if not given", min: 1, max: 2, expand: evalGitHub},
		{names: []string{"--hint"}, args: "NAME [VALUE]", help: "a hint line in the script", min: 1, max: 2, expand: hint},
		{names: []string{"--#", "-#"}, args: "WORD…", help: "a comment", max: -1, expand: func(*eval, []string) error { return nil }},
	}
	for _, s := range shortcuts {
		table = append(table, s.macro())
	}
	for _, i := range installers {
		table = append(table, i.macro())
	}
}

// lookup finds the macro written as name; nil if there is none.
func lookup(name string) *macro {
	for i := range table {
		for _, n := range table[i].names {
			if n == name {
				return &table[i]
			}
		}
	}
	if isComment(name) && name != "--#" {
		return lookup("--#") // the text follows without a blank
	}
	return nil
}

// Help lists the macros, one a line.
func Help() string {
	var b strings.Builder
	for i := range table {
		m := &table[i]
		fmt.Fprintf(&b, "%s  -  %s\n", strings.TrimSpace(strings.Join(m.names, ", ")+" "+m.args), m.help)
	}
	return b.String()
}
