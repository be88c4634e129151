package macros

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"plash/store"
)

// options are of a store that has the image 1.
func options(t *testing.T) Options {
	t.Helper()
	s, err := store.Init(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	if id, err := s.Stack(0, t.TempDir()); err != nil || id != 1 {
		t.Fatal(id, err)
	}
	return Options{Store: func() (*store.Store, error) { return s, nil }}
}

func TestScript(t *testing.T) {
	t.Setenv("VALUE", "it's")
	for _, c := range []struct {
		words string // separated by |
		want  string
	}{
		{"--run|a|b c", "a\nb c\n"},
		{"-x", ""},
		{"--from|1|-x|a", "### plash hint: image=1\na\n"},
		{"-f|1", "### plash hint: image=1\n"},
		{"--from-id|1", "### plash hint: image=1\n"},
		{"-x|a|-l|-x|b", "a\n### plash hint: layer\nb\n"},
		{"--layer|pip|a|b", "### plash hint: layer\npip install 'a'\n### plash hint: layer\npip install 'b'\n### plash hint: layer\n"},
		{"--layer|x|a", "### plash hint: layer\na\n### plash hint: layer\n"},
		{"--inline|a|--|-x|b", ""},
		{"--apt|a|it's", "apt-get update\napt-get install -y 'a' 'it'\\''s'\n"},
		{"--apt", ""},
		{"--defpm|opkg|opkg {} end|--opkg|p|q", "opkg 'p' 'q' end\n"},
		{`--run|--\ --x|--\|--\ y`, "--x\n\ny\n"},
		{`--write-file|/a b|--\ -|\n|`, "printf '%s\\n' '-' '\\n' '' > '/a b'\n"},
		{"--write-file|/empty", ": > '/empty'\n"},
		{"--write-script|/s|x", "printf '%s\\n' 'x' > '/s'\nchmod 755 '/s'\n"},
		{"--entrypoint-script|x", "printf '%s\\n' '#!/bin/sh' 'x' > '/entrypoint'\nchmod 755 '/entrypoint'\n"},
		{"--import-env|VALUE|VALUE:AS", "export VALUE='it'\\''s'\nexport AS='it'\\''s'\n"},
		{"--#|a|b|-#", ""},
		{"--hint|x|y|--hint|layer", "### plash hint: x=y\n### plash hint: layer\n"},
		{"--run|### plash hint: image=1|a", "### plash hint: image=1\na\n"},
		{"--env|A=1|B|--env-prefix|C|--entrypoint|x", ""},
	} {
		p, err := Eval(strings.Split(c.words, "|"), options(t))
		if strings.Contains(c.words, "|--|") {
			if err == nil || err.Error() != "--: no such macro" {
				t.Errorf("%s: %v", c.words, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.words, err)
		} else if got := p.Script(); got != c.want {
			t.Errorf("%s: got\n%swant\n%s", c.words, got, c.want)
		}
	}
}

func TestErrors(t *testing.T) {
	for words, want := range map[string]string{
		"--nope|x":             "--nope: no such macro",
		"-apt|x":               "-apt: no such macro",
		"x|--run":              "x: a macro must stand here, such as --run",
		"--from":               "--from: wrong number of arguments: --from IMAGE",
		"--from|1|2":           "--from: wrong number of arguments: --from IMAGE",
		"--from|9":             "--from: no image: 9",
		"--from|0":             "--from: 0: special root image",
		"--from-id|x":          "--from-id: x: must be a positive number",
		"--from-map|x":         "--from-map: x: no such key in the map",
		"--run|x|--from|1":     "--from: only the first macro may give the base image",
		"--from|1|--from|1":    "--from: only the first macro may give the base image",
		"--layer|--from|1":     "--from: only the first macro may give the base image",
		"--layer|nope|x":       "--layer: --nope: no such macro",
		"--env|1=2":            "--env: 1: not a variable's name",
		"--import-env|NO_SUCH": "--import-env: NO_SUCH: no such variable in the environment",
		"--hash-path|/no/such": "--hash-path: /no/such: No such file or directory",
	} {
		if _, err := Eval(strings.Split(words, "|"), options(t)); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", words, err, want)
		}
	}
	o := options(t)
	o.LookupOnly = true
	if _, err := Eval([]string{"--from", "host"}, o); err == nil || !strings.Contains(err.Error(), ErrImport.Error()) {
		t.Errorf("looking up what is not there: %v", err)
	}
}

// TestBuild: each layer is built once, by its parent and its text.
func TestBuild(t *testing.T) {
	o := options(t)
	s, _ := o.Store()
	var ran []string
	step := func(parent store.ID, code string, _ []string) (store.ID, error) {
		ran = append(ran, strings.TrimSpace(code))
		return s.Stack(parent, t.TempDir())
	}
	for _, c := range []struct {
		words, ran string
		want       store.ID
		cached     bool
	}{
		{"--from|1", "", 1, true},
		{"--from|1|-x|a|-l|-x|b", "a b", 3, false},
		{"--from|1|-x|a|-l|-x|b", "", 3, true},
		{"--from|1|-x|b", "b", 4, false},
		{"--from|1|-x|a|-l|-l|-x|c", "c", 5, false},
		{"--from|3|-l|--run|# comment", "", 3, true},
		{"--from|3|--env|A=1", "", 6, false}, // an empty layer
		{"--from|3|--env|A=1", "", 6, true},
		{"--from|6|--env|A=1", "", 6, true},
		{"--from|6|--entrypoint|x|--env|A=2|B", "", 7, false},
		{"--from|7|-x|d", "d", 8, false},
	} {
		ran = nil
		p, err := Eval(strings.Split(c.words, "|"), o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Build(s, nil); (err == nil) != c.cached || err != nil && err != ErrUncached {
			t.Errorf("%s: looked up: %v", c.words, err)
		}
		if id, err := p.Build(s, step); err != nil || id != c.want || strings.Join(ran, " ") != c.ran {
			t.Errorf("%s: got %d, %v, ran %q", c.words, id, err, ran)
		}
	}
	meta, err := s.Meta(8)
	if err != nil || strings.Join(meta.Env, " ") != "A=2" || strings.Join(meta.EnvNames, " ") != "B" || strings.Join(meta.Entrypoint, " ") != "x" {
		t.Errorf("inherited: %+v, %v", meta, err)
	}
	if _, err := (&Program{}).Build(s, step); err == nil || !strings.HasPrefix(err.Error(), "no base image") {
		t.Errorf("without a base: %v", err)
	}
}

func TestHashPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	hash := func() string {
		t.Helper()
		h, err := HashPath(dir)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	file, link := filepath.Join(dir, "sub/file"), filepath.Join(dir, "link")
	seen := map[string]string{hash(): "nothing"}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"a file", func() error { return os.WriteFile(file, []byte("a"), 0o644) }},
		{"its content", func() error { return os.WriteFile(file, []byte("b"), 0o644) }},
		{"its mode", func() error { return os.Chmod(file, 0o600) }},
		{"its name", func() error { return os.Rename(file, file+"2") }},
		{"a link", func() error { return os.Symlink("x", link) }},
		{"its target", func() error { os.Remove(link); return os.Symlink("y", link) }},
		{"a file instead", func() error { os.Remove(link); return os.WriteFile(link, []byte("y"), 0o777) }},
		{"the directory's mode", func() error { return os.Chmod(dir, 0o700) }},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		h := hash()
		if before, ok := seen[h]; ok {
			t.Errorf("%s: the hash is that of %s", step.name, before)
		}
		seen[h] = step.name
	}
	before := hash()
	if err := os.WriteFile(file+"2", []byte("b"), 0o600); err != nil { // a new time only
		t.Fatal(err)
	}
	if hash() != before {
		t.Error("the hash depends on times")
	}
}

func TestShell(t *testing.T) {
	long := shell(strings.Repeat("x", 3*maxWord))
	for _, word := range long {
		if len(word) >= 128<<10 {
			t.Errorf("a word of %d bytes", len(word))
		}
	}
	if got := strings.Join(long[4:], ""); !strings.HasSuffix(got, strings.Repeat("x", 3*maxWord)) {
		t.Error("the code is not whole")
	}
}
