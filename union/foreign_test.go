package union

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzWhiteoutNames: a file of any name, in a layer that others wrote and then
// in an upper of theirs, hides what its name says, and nothing else.
func FuzzWhiteoutNames(f *testing.F) {
	for _, name := range []string{"a", "other", ".wh.a", ".wh.other", ".wh..wh..opq", ".wh.", ".wh..", ".wh...", ".wh.wh.x", ".wh..wh.x", ".wh..wh.plnk",
		".wh", ".wh.\xff", ".wh.a\n", ".WH.a", "x.wh.a", ".wh..wh..opqx", ".wh." + strings.Repeat("n", 251), strings.Repeat("n", 255)} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00") {
			return
		}
		// The layer below has what the name may hide, and something else; it is
		// ours, so it may have any name.
		hides, isDot := strings.CutPrefix(name, ".wh.")
		below := []string{"other"}
		if hides != "" && hides != "." && hides != ".." {
			below = append(below, hides)
		}
		want := map[string]bool{name: !isDot}
		for _, n := range below {
			gone := name == ".wh..wh..opq" || isDot && n == hides && !strings.HasPrefix(hides, ".wh.")
			want[n] = !gone
		}
		dir := t.TempDir()
		var dirs []string
		for _, sub := range []string{"top", "low", "upper", "work"} {
			dirs = append(dirs, filepath.Join(dir, sub))
			write(t, dirs[len(dirs)-1], "d/")
		}
		write(t, dirs[1], "beside")
		top, low, upper, work := dirs[0], dirs[1], dirs[2], dirs[3]
		for path, names := range map[string][]string{top: {name}, low: below, upper: {name}} {
			for _, n := range names {
				if err := os.WriteFile(path+"/d/"+n, nil, 0o600); err != nil {
					t.Skip(err) // not a name for this file system
				}
			}
		}
		if err := unix.Setxattr(low, userPrefix+formatAttr, []byte("1"), 0); err != nil {
			t.Skip(err)
		}
		lowest := Layer{Path: low, Foreign: true}
		sees(t, Config{Lowers: []Layer{{Path: top, Foreign: true}, lowest}}, want)
		sees(t, Config{Lowers: []Layer{lowest}, Upper: upper, Work: work}, want)
		sees(t, Config{Lowers: []Layer{lowest}, Upper: upper, Work: work}, want)
	})
}

// sees checks which names a union shows in its directory d.
func sees(t *testing.T, c Config, want map[string]bool) {
	t.Helper()
	u, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	walk(t, u, "beside")
	d := walk(t, u, "d")
	ents, err := u.ReadDir(d)
	if err != nil {
		t.Fatal(err)
	}
	for name, shown := range want {
		listed := slices.ContainsFunc(ents, func(e Dirent) bool { return e.Name == name })
		n, err := u.Lookup(d, name)
		if listed != shown || (err == nil) != shown || err != nil && err != unix.ENOENT {
			t.Errorf("%q is to be shown: %v; it is listed: %v, and found: %v", name, shown, listed, err)
		}
		if err == nil {
			u.Forget(n, 1)
		}
	}
	for _, e := range ents {
		if !want[e.Name] {
			t.Errorf("%q is listed", e.Name)
		}
	}
}
