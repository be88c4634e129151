package macros

import (
	"os"
	"path/filepath"
	"testing"
)

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
