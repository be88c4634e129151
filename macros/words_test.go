package macros

import (
	"strings"
	"testing"
)

// TestPlashfile: how the lines of a plashfile become arguments.
func TestPlashfile(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"one argument a line", "--inline\na\nb c\n", "a b c\n"},
		{"no line break at the end", "--inline\na", "a\n"},
		{"the first line", "#!/usr/bin/env plash\n--run\n#!/bin/sh\n", "#!/bin/sh\n"},
		{"macro and arguments", "--run a --b  -c\t'd e'\nf -g\n", "a\n--b\n-c\n'd\ne'\nf -g\n"},
		{"blanks at a macro's end", "--run a \t\n--run \n", "a\n"},
		{"indentation", "--run\n  a\n\tb \n", "  a\n\tb \n"},
		{"quotes and UTF-8", "--apt\nit's\n\"é\"\n\\n\n", "apt-get update\napt-get install -y 'it'\\''s' '\"é\"' '\\n'\n"},
		{"not UTF-8", "--run\n\xff\xc3\n", "\xff\xc3\n"},
		{"literals", "--run a\n--\\ --b\n--\\\n--\\  -c\n", "a\n--b\n\n -c\n"},
		{"blank lines between lines", "\n--run\n\n\na\n\n \nb\n\n\n\n--run c\n\nd", "a\n\n \nb\nc\n\nd\n"},
		{"blank lines of x", "-x\na\n\nb\n", "a\n\nb\n"},
		{"blank lines of lx", "-lx\na\n\nb\n", "### plash hint: layer\na\n\nb\n"},
		{"blank lines elsewhere", "--apt\n\na\n\nb\n\n", "apt-get update\napt-get install -y 'a' 'b'\n"},
		{"blank lines of a file", "--write-file /f\n\na\n\nb\n\n", "printf '%s\\n' 'a' '' 'b' > '/f'\n"},
		{"path on its own line", "--write-file\n\n/f\n\na\n\nb\n\n", "printf '%s\\n' 'a' '' 'b' > '/f'\n"},
		{"blank lines of a script", "--write-script /f\na\n\nb\n", "printf '%s\\n' 'a' '' 'b' > '/f'\nchmod 755 '/f'\n"},
		{"blank lines of an entrypoint", "--entrypoint-script\n\n#!/bin/cat\n\nb\n\n", "printf '%s\\n' '#!/bin/cat' '' 'b' > '/entrypoint'\nchmod 755 '/entrypoint'\n"},
		{"literals at the end", "--write-file /f\na\n--\\\n\n--\\\n\n", "printf '%s\\n' 'a' '' '' '' > '/f'\n"},
		{"comments", "--#\nx\ny\n--run a\n-# it's a comment --run x\n\nb\n--#no blank x\nc\n-#\nd\n--run e\n--# \nf\n--#x\ng", "a\n\nb\nc\ne\n"},
		{"a package manager", "--defpm opkg\nopkg {} \n\nmore {}\n--opkg a b\n", "opkg 'a' 'b' \nmore 'a' 'b'\n"},
		{"nothing", "", ""},
		{"nothing but a first line", "#!/usr/bin/env plash", ""},
	} {
		p, err := EvalText("f", c.text, strings.NewReader(""))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if got := p.Script(1); got != c.want {
			t.Errorf("%s: got\n%swant\n%s", c.name, got, c.want)
		}
	}
	for text, want := range map[string]string{
		"a\n":                      "f:1: a: a macro must stand here, such as --run",
		"#!x\n\n  a\n":             "f:3:   a: a macro must stand here, such as --run",
		"--\\ --run\n":             `f:1: --\ --run: a macro must stand here, such as --run`,
		"--run\na\n--rnu b\n":      "f:3: --rnu: no such macro, did you mean --run?",
		"--run\na\n-\n":            "f:3: -: no such macro",
		"--run\na\n--\n":           "f:3: --: no such macro",
		"--run a\x00b\n":           "f: has a NUL byte, which is no text",
		"--from-id\n":              "f:1: --from-id: wrong number of arguments: --from-id ID",
		"\n\n--eval-file /no/such": "f:3: --eval-file: /no/such: No such file or directory",
	} {
		if _, err := EvalText("f", text, strings.NewReader("")); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}
