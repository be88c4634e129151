package macros

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"plash/store"
)

// TestImport: executables as macros.
func TestImport(t *testing.T) {
	dir := t.TempDir()
	for name, file := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"args":     {"#!/bin/sh\nprintf '%s\\n' \"$#\" \"$@\"; cat", 0o755},
		"no-break": {"#!/bin/sh\nprintf 'a\\n### plash hint: layer\\nb'", 0o755},
		"silent":   {"#!/bin/sh", 0o755},
		"apt":      {"#!/bin/sh\necho mine", 0o755},
		"README":   {"no program", 0o644},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(file.text), file.mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for words, want := range map[string]string{
		`--import|DIR|--args|a b|--\ -c|--no-break|--silent|--apt|x`: "2\na b\n-c\na\n### plash hint: layer\nb\nmine\n",
		"--import|DIR/args|--args|--layer|args|x":                    "0\n### plash hint: layer\n1\nx\n### plash hint: layer\n",
	} {
		if got, err := script(t, strings.ReplaceAll(words, "DIR", dir), "not for it"); err != nil || got != want {
			t.Errorf("%s: %v, got\n%swant\n%s", words, err, got, want)
		}
	}
	for words, want := range map[string]string{
		"--import|DIR|--README":      "--README: no such macro",
		"--import|DIR|--sub":         "--sub: no such macro",
		"--import|DIR/args|--silent": "--silent: no such macro",
	} {
		if _, err := script(t, strings.ReplaceAll(words, "DIR", dir), ""); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", words, err, want)
		}
	}
}

// TestGitHub: files of repositories and other addresses, from a server of the
// test's own, and which branch of a mirror.
func TestGitHub(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := map[string]string{
			"/a/b/HEAD/plashfile":     "--run\nhead\n",
			"/a/b/master/plashfile":   "--run\nmaster\n",
			"/a/old/master/plashfile": "#!/usr/bin/env plash\n--from 1\n--run old\n",
			"/a/b/HEAD/sub/file":      "--inline\na\nb\n",
			"/a/b/HEAD/bad":           "\n--nope\n",
			"/a/loop/HEAD/plashfile":  "--from-github a/loop\n",
		}[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, text)
	}))
	defer server.Close()
	t.Setenv("PLASH_GITHUB", server.URL+"/")
	for words, want := range map[string]string{
		"--eval-github|a/b":                                  "head\n",
		"--eval-github|a/old":                                "### plash hint: image=1\nold\n",
		"--eval-github|a/b|sub/file":                         "a b\n",
		"--eval-url|" + server.URL + "/a/b/HEAD/sub/file":    "a b\n",
		"--eval-url|file://" + write(t, "f", "-x\nx", 0o644): "x\n",
	} {
		if got, err := script(t, words, ""); err != nil || got != want {
			t.Errorf("%s: %v, got\n%swant\n%s", words, err, got, want)
		}
	}
	for words, want := range map[string]string{
		"--eval-github|a/none":  "--eval-github: " + server.URL + "/a/none/HEAD/plashfile: 404 Not Found",
		"--eval-github|a/b|bad": "--eval-github: " + server.URL + "/a/b/HEAD/bad:2: --nope: no such macro",
	} {
		if _, err := script(t, words, ""); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", words, err, want)
		}
	}

	// As base it is built once, and asked for once.
	b := &Builder{Store: newStore(t)}
	step := func(parent store.ID, code string, _ []string) (store.ID, error) {
		if code != "old\n" {
			t.Errorf("code %q", code)
		}
		return b.Store.Stack(parent, t.TempDir())
	}
	p, err := Eval([]string{"--from-github", "a/old"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Build(p); err != ErrUncached {
		t.Errorf("before it is built: %v", err)
	}
	b.Step = step
	if id, err := b.Build(p); err != nil || id != 2 {
		t.Errorf("built: %d, %v", id, err)
	}
	if p, err = Eval([]string{"--from-github", "a/loop"}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Build(p); err == nil || err.Error() != "nested too deep" {
		t.Errorf("its own base: %v", err)
	}
	server.Close()
	b.Step = nil
	if p, err = Eval([]string{"--from-github", "a/old"}, nil); err != nil {
		t.Fatal(err)
	}
	if id, err := b.Build(p); err != nil || id != 2 {
		t.Errorf("again: %d, %v", id, err)
	}
}
