package main

import (
	"fmt"
	"slices"
	"strings"

	"plash/docs"
	"plash/macros"
)

type completionCommand struct {
	Shell string   `arg:"" name:"SHELL"`
	Words []string `arg:"" optional:"" name:"WORD"`
}

// Run prints a shell's script, or, for that, what may stand in the last word's
// place. It knows no files: where it prints nothing the shell completes those.
func (c *completionCommand) Run() error {
	shell, ok := shells[c.Shell]
	if !ok {
		return fmt.Errorf("%s: an unknown shell: bash, zsh and fish are known", c.Shell)
	}
	if len(c.Words) == 0 {
		return printLine(shell.script)
	}
	last := c.Words[len(c.Words)-1]
	var b strings.Builder
	for _, candidate := range complete(c.Words) {
		if strings.HasPrefix(candidate.word, last) {
			b.WriteString(shell.line(candidate) + "\n")
		}
	}
	if b.Len() == 0 {
		return nil
	}
	return printLine(strings.TrimSuffix(b.String(), "\n"))
}

// A shell is one whose completion plash can do.
type shell struct {
	script string
	line   func(candidate) string // how the script wants a candidate
}

var shells = map[string]shell{
	"bash": {bashScript, func(c candidate) string { return c.word }},
	"zsh": {zshScript, func(c candidate) string {
		return strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace(c.word) + ":" + c.help
	}},
	"fish": {fishScript, func(c candidate) string { return c.word + "\t" + c.help }},
}

// bash divides words at colons too; so the line is divided anew here, and what
// stands before the last colon of the word is taken off what is offered.
const bashScript = `# plash completion bash >/etc/bash_completion.d/plash
_plash() {
	local words word colon
	read -ra words <<<"${COMP_LINE:0:COMP_POINT}"
	[[ ${COMP_LINE:0:COMP_POINT} == *[[:space:]] ]] && words+=('')
	word=${words[-1]} colon=
	[[ $word == *:* && $COMP_WORDBREAKS == *:* ]] && colon=${word%"${word##*:}"}
	mapfile -t COMPREPLY < <("${words[0]}" completion bash "${words[@]:1}" 2>/dev/null)
	COMPREPLY=("${COMPREPLY[@]#"$colon"}")
}
complete -o bashdefault -o default -F _plash plash`

const zshScript = `#compdef plash
# plash completion zsh >"${fpath[1]}/_plash"
_plash() {
	local -a candidates
	candidates=("${(@f)$("${words[1]}" completion zsh "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	if [[ -n $candidates ]]; then
		_describe plash candidates
	else
		_files
	fi
}
if [[ $funcstack[1] == _plash ]]; then
	_plash "$@"
else
	compdef _plash plash
fi`

const fishScript = `# plash completion fish >~/.config/fish/completions/plash.fish
function __plash_complete
	set -l words (commandline -opc) (commandline -ct)
	set -l candidates ($words[1] completion fish $words[2..-1] 2>/dev/null)
	if test (count $candidates) -gt 0
		printf '%s\n' $candidates
	else
		__fish_complete_path (commandline -ct)
	end
end
complete -c plash -f -a '(__plash_complete)'`

// A candidate may stand in a word's place.
type candidate struct{ word, help string }

// complete returns what may stand in the place of the last of words, of which
// what is there may be a beginning.
func complete(words []string) []candidate {
	first, last := words[0], words[len(words)-1]
	switch {
	case len(words) == 1 && strings.HasPrefix(last, "-"):
		return slices.Concat(macroCandidates(), buildAndRun.optionCandidates(), []candidate{
			{"-v", "say what is chosen and why"}, {helpOption, "list the commands"},
			{"--help-macros", "list the macros"}, {"--version", "print the version"}})
	case len(words) == 1:
		return commandCandidates()
	case first == "-v":
		return complete(words[1:])
	case strings.HasPrefix(first, "-"):
		return completeMacros(words)
	}
	c := find(first)
	if c == nil {
		return nil
	}
	return c.complete(words[1:])
}

// complete returns what may stand in the place of the last of the command's
// words.
func (c *command) complete(words []string) []candidate {
	before, last := words[:len(words)-1], words[len(words)-1]
	node := c.parser().Model.Node
	_, rest, err := arrange(node, c.macros, before)
	if err != nil {
		return nil // it is an option's value
	}
	n, all := len(rest), append(rest, last)
	name := ""
	if count := len(node.Positional); n < count {
		name = node.Positional[n].Name
	} else if count > 0 && node.Positional[count-1].IsCumulative() {
		name = node.Positional[count-1].Name
	}
	mayBeOption := strings.HasPrefix(last, "-")
	switch {
	case name == "PLASHCMD" && (n > 0 || !mayBeOption):
		return c.completePlash(all)
	case name == "MACROS", n > 0 && (c.name == "b" || c.macros && macros.IsMacro(rest[0])):
		return completeMacros(all)
	case name == "CMD" && n >= len(node.Positional):
		return nil // the program's own words
	case mayBeOption && c.macros && n == 0:
		return append(c.optionCandidates(), macroCandidates()...)
	case mayBeOption:
		return c.optionCandidates()
	case name == "ID":
		return idCandidates()
	case name == "KEY":
		return keyCandidates()
	case name == "COMMAND":
		return commandCandidates()
	case name == "SHELL":
		return []candidate{{"bash", ""}, {"fish", ""}, {"zsh", ""}}
	case name == "":
		return c.optionCandidates()
	}
	return nil
}

// completePlash completes the words of a plash command that the command runs.
func (c *command) completePlash(words []string) []candidate {
	called := find(words[0])
	if len(words) > 1 && c.name != "cache" && called != nil && called.takesID() && !(called.macros && strings.HasPrefix(words[1], "-")) {
		words = slices.Insert(slices.Clone(words), 1, "1") // the session's last id
	}
	return complete(words)
}

// completeMacros completes words of the build language, or of the program that
// stands behind it.
func completeMacros(words []string) []candidate {
	before, last := words[:len(words)-1], words[len(words)-1]
	if slices.Contains(before, "--") {
		return nil
	}
	if strings.HasPrefix(last, "-") || len(before) == 0 {
		return macroCandidates()
	}
	switch before[len(before)-1] {
	case "--from", "-f", "--f":
		return append([]candidate{{"host", "the running system's own root"}}, idCandidates()...)
	case "--from-id":
		return idCandidates()
	case "--from-map":
		return keyCandidates()
	}
	return nil
}

func commandCandidates() []candidate {
	var list []candidate
	for _, c := range commands() {
		section, _ := docs.Find(c.name)
		list = append(list, candidate{c.name, section.Summary})
	}
	slices.SortFunc(list, func(a, b candidate) int { return strings.Compare(a.word, b.word) })
	return list
}

// optionCandidates returns the command's own options.
func (c *command) optionCandidates() []candidate {
	section, _ := docs.Find(c.name)
	list := []candidate{{helpOption, "say all about " + c.name}}
	for _, option := range section.Options() {
		for _, form := range option.Forms {
			if word, _, _ := strings.Cut(form, " "); strings.HasPrefix(word, "-") {
				list = append(list, candidate{word, strings.ReplaceAll(option.Text, "`", "")})
			}
		}
	}
	return list
}

func macroCandidates() []candidate {
	var list []candidate
	for line := range strings.Lines(macros.Help()) {
		names, help, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  -  ")
		for name := range strings.FieldsSeq(names) {
			if strings.HasPrefix(name, "-") {
				list = append(list, candidate{strings.TrimSuffix(name, ","), help})
			}
		}
	}
	return list
}

// idCandidates returns the images, the newest first, and how they were made.
func idCandidates() []candidate {
	s, err := openStore()
	if err != nil {
		return nil
	}
	ids, _ := s.Images()
	var list []candidate
	for _, id := range slices.Backward(ids) {
		if meta, err := s.Meta(id); err == nil {
			list = append(list, candidate{id.String(), shorten(oneLine(strings.TrimSuffix(meta.Made, "\n")))})
		}
	}
	return list
}

// keyCandidates returns the keys that people have given.
func keyCandidates() []candidate {
	s, err := openStore()
	if err != nil {
		return nil
	}
	keys, _ := s.Keys()
	var list []candidate
	for id, names := range keys {
		for _, name := range names {
			if !isOwnKey(name) {
				list = append(list, candidate{name, "image " + id.String()})
			}
		}
	}
	slices.SortFunc(list, func(a, b candidate) int { return strings.Compare(a.word, b.word) })
	return list
}
