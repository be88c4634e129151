package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"plash/docs"
)

// TestPages: each page is shown without a warning, and shows what the manual
// says, every word of it.
func TestPages(t *testing.T) {
	if _, err := exec.LookPath("man"); err != nil {
		t.Skip("no man on this machine: tests/setup.sh installs it")
	}
	dir := t.TempDir()
	if err := write("1.0", dir); err != nil {
		t.Fatal(err)
	}
	for _, s := range docs.Sections() {
		name := "plash-" + s.Name
		if strings.HasPrefix(s.Name, "-") {
			name = "plash"
		}
		shown := show(t, filepath.Join(dir, name+".1"))
		for word := range strings.FieldsSeq(s.Synopsis + " " + s.Summary + " " + s.Text) {
			if word = strings.ReplaceAll(word, "`", ""); word != "-" && !strings.Contains(shown, strings.TrimRight(word, ":")) {
				t.Errorf("%s: %q is not shown", name, word)
			}
		}
	}
	if shown := show(t, filepath.Join(dir, "plash.1")); !strings.Contains(shown, "plash run ID [CMD…]") || !strings.Contains(shown, "--write-file PATH LINE…") {
		t.Errorf("plash(1): %s", shown)
	}
}

// show returns what man shows, and demands that it has no warning.
func show(t *testing.T, file string) string {
	t.Helper()
	var warnings strings.Builder
	cmd := exec.Command("man", "--warnings", "--no-hyphenation", "--no-justification", "-l", file)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANWIDTH=500", "MAN_KEEP_FORMATTING=", "PAGER=cat")
	cmd.Stderr = &warnings
	out, err := cmd.Output()
	if err != nil || warnings.Len() > 0 {
		t.Fatalf("%s: %v: %s", file, err, &warnings)
	}
	return string(out)
}

// TestEscape: what would mean something to groff is shown as it is.
func TestEscape(t *testing.T) {
	for text, want := range map[string]string{
		`.SH`: `\&.SH`, `'x`: `\(aqx`, `\n`: `\en`, "--a": `\-\-a`, "": "",
	} {
		if got := escape(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got, want := inline("`-a`, `.b` c"), `\&\fB\-a\fR, \fB\&.b\fR c`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
