package macros

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"plash/store"
)

// newStore returns a store that has the image 1.
func newStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Init(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	if id, err := s.Stack(0, t.TempDir()); err != nil || id != 1 {
		t.Fatal(id, err)
	}
	return s
}

// script evaluates words, which are separated by |, and returns their script.
func script(t *testing.T, words, stdin string) (string, error) {
	t.Helper()
	p, err := Eval(strings.Split(words, "|"), strings.NewReader(stdin))
	if err != nil {
		return "", err
	}
	return p.Script(1), nil
}

// write writes a file in a new directory and returns its path.
func write(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestScript: what each macro emits.
func TestScript(t *testing.T) {
	t.Setenv("VALUE", "it's")
	t.Setenv("EMPTY", "")
	for _, c := range []struct{ words, want string }{
		{"--run|a|b c", "a\nb c\n"},
		{"-x", ""},
		{"--x|a", "a\n"},
		{"--from|1|-x|a", "### plash hint: image=1\na\n"},
		{"-f|1", "### plash hint: image=1\n"},
		{"--f|1", "### plash hint: image=1\n"},
		{"--from-id|1", "### plash hint: image=1\n"},
		{"--from-map|k", "### plash hint: image=1\n"},
		{"--from-lxc|debian:12", "### plash hint: image=1\n"},
		{"--from-url|http://x", "### plash hint: image=1\n"},
		{"--from-github|a/b", "### plash hint: image=1\n"},
		{"-A", "### plash hint: image=1\n"},
		{"-A|a|b", "### plash hint: image=1\napk update\napk add 'a' 'b'\n"},
		{"--A|a", "### plash hint: image=1\napk update\napk add 'a'\n"},
		{"-U|a", "### plash hint: image=1\napt-get update\napt-get install -y 'a'\n"},
		{"-F|a", "### plash hint: image=1\ndnf install -y 'a'\n"},
		{"-D|a", "### plash hint: image=1\napt-get update\napt-get install -y 'a'\n"},
		{"-C|a", "### plash hint: image=1\nyum install -y 'a'\n"},
		{"-R|a", "### plash hint: image=1\npacman -Sy --noconfirm 'a'\n"},
		{"-G|a", "### plash hint: image=1\nemerge 'a'\n"},
		{"-Ax|a", "### plash hint: image=1\na\n"},
		{"-Alx|a|-lx|b", "### plash hint: image=1\n### plash hint: layer\na\n### plash hint: layer\nb\n"},
		{"-x|a|-l|-x|b", "a\n### plash hint: layer\nb\n"},
		{"-x|a|--l|-x|b", "a\n### plash hint: layer\nb\n"},
		{"--layer|pip|a|b", "### plash hint: layer\npip install 'a'\n### plash hint: layer\npip install 'b'\n### plash hint: layer\n"},
		{"--layer|x|a", "### plash hint: layer\na\n### plash hint: layer\n"},
		{"--layer|run", "### plash hint: layer\n"},
		{"--run-stdin", "in 1\n--in 2\n\n"},
		{"--inline|a|b c", "a b c\n"},
		{"--apt|a|it's", "apt-get update\napt-get install -y 'a' 'it'\\''s'\n"},
		{"--apt", ""},
		{"--apk|a", "apk update\napk add 'a'\n"},
		{"--yum|a", "yum install -y 'a'\n"},
		{"--dnf|a", "dnf install -y 'a'\n"},
		{"--pacman|a", "pacman -Sy --noconfirm 'a'\n"},
		{"--emerge|a", "emerge 'a'\n"},
		{"--pip|a", "pip install 'a'\n"},
		{"--pip3|a==1", "pip3 install 'a==1'\n"},
		{"--npm|a", "npm install -g 'a'\n"},
		{"--add-apt-repository|ppa:a/b", "apt-get update\napt-get install -y software-properties-common\nadd-apt-repository -y 'ppa:a/b'\n"},
		{"--add-apt-repository", ""},
		{"--defpm|opkg|opkg {} end|{}|--opkg|p|q", "opkg 'p' 'q' end\n'p' 'q'\n"},
		{"--defpm|opkg|opkg {}|--opkg", ""},
		{"--defpm|apt|apt {}|--apt|p|--layer|apt|q", "apt 'p'\n### plash hint: layer\napt 'q'\n### plash hint: layer\n"},
		{`--run|--\ --x|--\|--\ y`, "--x\n\ny\n"},
		{`--write-file|/a b|--\ -|\n|`, "printf '%s\\n' '-' '\\n' '' > '/a b'\n"},
		{"--write-file|/empty", ": > '/empty'\n"},
		{"--write-script|/s|x", "printf '%s\\n' 'x' > '/s'\nchmod 755 '/s'\n"},
		{"--entrypoint-script|x", "printf '%s\\n' '#!/bin/sh' 'x' > '/entrypoint'\nchmod 755 '/entrypoint'\n"},
		{"--entrypoint-script|#!/bin/cat|x", "printf '%s\\n' '#!/bin/cat' 'x' > '/entrypoint'\nchmod 755 '/entrypoint'\n"},
		{"--import-env|VALUE|VALUE:AS|EMPTY|NO_SUCH", "export VALUE='it'\\''s'\nexport AS='it'\\''s'\nexport EMPTY=''\n"},
		{"--eval-string| --run mycmd", "mycmd\n"},
		{`--eval-string| --run 'a  b' "c\"'" d\ e --apt f`, "a  b\nc\"'\nd e\napt-get update\napt-get install -y 'f'\n"},
		{"--#|a|b|-#", ""},
		{"--#no blank|a|-##|b|-x|c", "c\n"},
		{"--hint|x|y|--hint|layer|--hint|z", "### plash hint: x=y\n### plash hint: layer\n### plash hint: z\n"},
		{"--hint|image|1", "### plash hint: image=1\n"},
		{"--run|### plash hint: image=1|a\n### plash hint: layer\nb", "### plash hint: image=1\na\n### plash hint: layer\nb\n"},
		{"--env|A=1|B|--env-prefix|C|--entrypoint|x|--mount|/a:/b", ""},
	} {
		if got, err := script(t, c.words, "in 1\n--in 2\n\n"); err != nil || got != c.want {
			t.Errorf("%s: %v, got\n%swant\n%s", c.words, err, got, c.want)
		}
	}
	if got, err := script(t, "--eval-stdin", "#!x\n--run\n a\n"); err != nil || got != " a\n" {
		t.Errorf("--eval-stdin: %v, got %s", err, got)
	}
	for words, want := range map[string]string{
		"--hash-path|" + write(t, "f", "x", 0o644): `^: hash of '/.*/f': [0-9a-f]{64}\n$`,
		"--invalidate-layer":                       `^: layer of 20\d\d-.*\n$`,
	} {
		if got, err := script(t, words, ""); err != nil || !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%s: %v, got %s", words, err, got)
		}
	}
}

func TestErrors(t *testing.T) {
	plain := write(t, "plain", "", 0o644)
	broken := write(t, "broken", "#!/bin/sh\necho x\nexit 3\n", 0o755)
	nul := write(t, "nul", "#!/bin/sh\nprintf 'a\\000b'\n", 0o755)
	itself := filepath.Join(t.TempDir(), "itself")
	if err := os.WriteFile(itself, []byte("--eval-file "+itself), 0o644); err != nil {
		t.Fatal(err)
	}
	for words, want := range map[string]string{
		"--nope|x":                           "--nope: no such macro",
		"--rnu|x":                            "--rnu: no such macro, did you mean --run?",
		"--from-lcx|x":                       "--from-lcx: no such macro, did you mean --from-lxc?",
		"-apt|x":                             "-apt: no such macro, did you mean --apt?",
		"--packman":                          "--packman: no such macro, did you mean --pacman?",
		"--defpm|opkg|x|--opgk":              "--opgk: no such macro, did you mean --opkg?",
		"-xq|x":                              "-xq: no such macro",
		"--|x":                               "--: no such macro",
		"-|x":                                "-: no such macro",
		"x|--run":                            "x: a macro must stand here, such as --run",
		"--from":                             "--from: wrong number of arguments: --from IMAGE",
		"--from|1|2":                         "--from: wrong number of arguments: --from IMAGE",
		"--run-stdin|x":                      "--run-stdin: wrong number of arguments: --run-stdin",
		"--run|x|--from|1":                   "--from: only the first macro may give the base image",
		"--from|1|--from|1":                  "--from: only the first macro may give the base image",
		"--from|1|-A":                        "-A: only the first macro may give the base image",
		"-fA":                                "-f: wrong number of arguments: -f IMAGE",
		"--layer|--from|1":                   "--from: only the first macro may give the base image",
		"--layer|nope|x":                     "--layer: --nope: no such macro",
		"--env|1=2":                          "--env: 1: not a variable's name",
		"--env|=2":                           "--env: a variable's name must not be empty",
		"--import-env|A:b-c":                 "--import-env: b-c: not a variable's name",
		"--hash-path|/no/such":               "--hash-path: /no/such: No such file or directory",
		"--mount|":                           "--mount: : must be SRC or SRC:DST, and DST begin with a slash",
		"--mount|/a:/b/..":                   "--mount: /a:/b/..: nothing can be bound over the image's root",
		"--mount|/":                          "--mount: /: nothing can be bound over the image's root",
		"--mount|/a:b":                       "--mount: /a:b: must be SRC or SRC:DST, and DST begin with a slash",
		"--entrypoint-script":                "--entrypoint-script: an empty script: it takes lines",
		"--eval-string| --run 'a":            "--eval-string:  --run 'a: unterminated single-quoted string",
		"--eval-string|a":                    "--eval-string: a: a macro must stand here, such as --run",
		"--eval-string| --nope":              "--eval-string: --nope: no such macro",
		"--eval-github|a":                    "--eval-github: a: not a repository: USER/REPO is one",
		"--eval-github|a/b/c":                "--eval-github: a/b/c: not a repository: USER/REPO is one",
		"--eval-url|x":                       "--eval-url: x: not a URL: it begins with http://, https:// or file://",
		"--eval-file|/":                      "--eval-file: /: Is a directory",
		"--eval-file|" + itself:              "nested too deep",
		"--import|/no/such":                  "--import: /no/such: No such file or directory",
		"--import|" + plain:                  "--import: " + plain + ": Permission denied",
		"--import|" + broken + "|--broken|x": "--broken: " + broken + ": exit status 3",
		"--import|" + nul + "|--nul":         "--nul: has a NUL byte, which is no text",
		"--from|docker:debian": "--from: docker:debian: images of registries and of other programs are not supported yet: " +
			"--from takes an id, host or DISTRO:VERSION, --from-url an archive",
		"--from|quay.io/x/y:1": "--from: quay.io/x/y:1: images of registries and of other programs are not supported yet: " +
			"--from takes an id, host or DISTRO:VERSION, --from-url an archive",
	} {
		if _, err := script(t, words, ""); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", words, err, want)
		}
	}
}
