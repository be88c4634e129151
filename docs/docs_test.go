package docs

import (
	"slices"
	"strings"
	"testing"
)

// TestSections: the page has the parts that the functions look for.
func TestSections(t *testing.T) {
	s, ok := Find("run")
	if !ok || s.Synopsis != "run ID [CMD…]" || s.Group != "Image Commands" || !strings.HasPrefix(s.Summary, "run a program") {
		t.Errorf("run: %+v", s)
	}
	if want := "plash id ID  -  print the id"; Sections()[0].Name != "pull:host" || mustFind(t, "id").Line() != want {
		t.Errorf("id: %q, want %q", mustFind(t, "id").Line(), want)
	}
	if _, ok := Find("no-such-command"); ok {
		t.Error("found what is not there")
	}
}

func mustFind(t *testing.T, name string) Section {
	t.Helper()
	s, ok := Find(name)
	if !ok {
		t.Fatalf("no section for %s", name)
	}
	return s
}

// TestPlain: what a terminal shows has no marks of Markdown in it.
func TestPlain(t *testing.T) {
	s := Section{Synopsis: "do X", Summary: "does X", Text: "A `word`.\n\n    code\n\n- `--a B`, `-c`: one\n  two\n- `-d`: three"}
	const want = `plash do X  -  does X

A word.

    code

  --a B, -c: one
      two
  -d: three
`
	if got := s.Plain(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	options := s.Options()
	if len(options) != 2 || !slices.Equal(options[0].Forms, []string{"--a B", "-c"}) || options[0].Text != "one two" || options[1].Text != "three" {
		t.Errorf("options: %q", options)
	}
}

// TestPage: every section's text is of the few forms that are shown well
// elsewhere: no tables, no emphasis, no line too long for a terminal.
func TestPage(t *testing.T) {
	for _, s := range Sections() {
		for line := range strings.SplitSeq(s.Text, "\n") {
			if strings.Contains(line, "**") || strings.HasPrefix(line, "|") || strings.HasPrefix(line, "#") || strings.Count(line, "`")%2 != 0 || len([]rune(line)) > 95 {
				t.Errorf("%s: %q", s.Name, line)
			}
		}
	}
}
