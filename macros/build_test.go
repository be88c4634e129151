package macros

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"plash/internal/rawjson"
	"plash/store"
)

// TestAnyBytes: words of any bytes but NUL come out of every shell as they are,
// also after the way to another process.
func TestAnyBytes(t *testing.T) {
	all := make([]byte, 0, 256)
	for c := 1; c < 256; c++ {
		if c != '\n' {
			all = append(all, byte(c))
		}
	}
	words := []string{string(all), "\\n", "'", "''", "%s", "-n", "--x", " a ", "a\nb", "é\xff", "$(x)`y`$z\\", "!!", ""}
	file := filepath.Join(t.TempDir(), "fi'le")
	args := []string{"--write-file", file}
	for _, word := range words {
		args = append(args, `--\ `+word)
	}
	p, err := Eval(args, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := rawjson.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var there Program
	if err := rawjson.Unmarshal(text, &there); err != nil {
		t.Fatal(err)
	}
	want := strings.Join(words, "\n") + "\n"
	for _, name := range []string{"dash", "bash", "busybox"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Logf("no %s here", name)
			continue
		}
		command := shell(there.Layers[0])
		if name == "busybox" {
			command = append([]string{"busybox"}, command...)
		}
		run := exec.Cmd{Path: path, Args: command}
		if out, err := run.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s: %v\ngot  %q\nwant %q", name, err, got, want)
		}
		os.Remove(file)
	}
}

// TestBuild: each layer is built once, by its parent and its text.
func TestBuild(t *testing.T) {
	b := &Builder{Store: newStore(t)}
	var ran []string
	step := func(parent store.ID, code string, _ []string) (store.ID, error) {
		ran = append(ran, strings.TrimSpace(code))
		return b.Store.Stack(parent, t.TempDir())
	}
	if err := b.Store.SetMap("key", 1); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		words, ran string
		want       store.ID
		cached     bool
	}{
		{"--from|1", "", 1, true},
		{"--from-map|key", "", 1, true},
		{"--from|1|-x|a|-l|-x|b", "a b", 3, false},
		{"--from|1|-x|a|-l|-x|b", "", 3, true},
		{"--from-map|key|-x|a|-lx|b", "", 3, true},
		{"--from|1|-x|b", "b", 4, false},
		{"--from|1|-x|a|-l|-l|-x|c", "c", 5, false},
		{"--from|3|-l|--run|# comment", "", 3, true},
		{"--from|3|--env|A=1", "", 6, false}, // an empty layer
		{"--from|3|--env|A=1", "", 6, true},
		{"--from|6|--env|A=1", "", 6, true},
		{"--from|6|--entrypoint|x|--env|A=2|B", "", 7, false},
		{"--from|7|-x|d", "d", 8, false},
		{"--from|7|--mount|/a:/b|/c|--env-prefix|P", "", 9, false},
		{"--from|9|--mount|/c|/a:/b", "", 9, true},
		{"--from|9|--mount|/x:/b|--env|A|B=1", "", 10, false},
		{"--from|1|--entrypoint|\xff", "", 11, false},
		{"--from|1|--entrypoint|\xfe", "", 12, false},
	} {
		ran = nil
		p, err := Eval(strings.Split(c.words, "|"), nil)
		if err != nil {
			t.Fatal(err)
		}
		b.Step = nil
		if _, err := b.Build(p); (err == nil) != c.cached || err != nil && err != ErrUncached {
			t.Errorf("%s: looked up: %v", c.words, err)
		}
		b.Step = step
		if id, err := b.Build(p); err != nil || id != c.want || strings.Join(ran, " ") != c.ran {
			t.Errorf("%s: got %d, %v, ran %q", c.words, id, err, ran)
		}
	}
	for id, want := range map[store.ID]string{
		8:  "[x] [A=2] [B] [] []",
		9:  "[x] [A=2] [B] [P] [/a:/b /c]",
		10: "[x] [B=1] [A] [P] [/c /x:/b]",
		11: "[\xff] [] [] [] []",
	} {
		m, err := b.Store.Meta(id)
		if got := fmt.Sprint(m.Entrypoint, m.Env, m.EnvNames, m.EnvPrefixes, m.Mounts); err != nil || got != want {
			t.Errorf("%d: %v, %s, want %s", id, err, got, want)
		}
	}
	if m, err := b.Store.Meta(10); err != nil || m.Made != "--env 'A' 'B=1' --mount '/x:/b'" {
		t.Errorf("made: %v, %s", err, m.Made)
	}
	for words, want := range map[string]string{
		"--from|99":       "--from: no image: 99",
		"--from|0":        "--from: 0: special root image",
		"--from-id|x":     "--from-id: x: must be a positive number",
		"--from-map|x":    "--from-map: x: no such key in the map",
		"--from-map|a/b":  "--from-map: a/b: must not contain a slash",
		"--hint|image|99": "image hint: no image: 99",
		"--run|x":         "no base image: the first macro must give it, such as --from host",
	} {
		p, err := Eval(strings.Split(words, "|"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Build(p); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", words, err, want)
		}
	}
	// A failing step leaves the layers before it.
	b.Step = func(parent store.ID, code string, _ []string) (store.ID, error) {
		if code == "bad\n" {
			return 0, os.ErrInvalid
		}
		return step(parent, code, nil)
	}
	p, err := Eval(strings.Split("--from|1|-x|good|-lx|bad", "|"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"good", ""} {
		ran = nil
		if _, err := b.Build(p); err != os.ErrInvalid || strings.Join(ran, " ") != want {
			t.Errorf("%v, ran %q", err, ran)
		}
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
