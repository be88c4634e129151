package union

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"plash/internal/usertest"
)

// TestAsUser runs all other tests of this package as an ordinary user.
func TestAsUser(t *testing.T) { usertest.Rerun(t) }

// A changed file of a live layer is another node, with the new content.
func TestLiveFileChanges(t *testing.T) {
	root := t.TempDir()
	write(t, root, "f", "same")
	u, _ := open(t, Layer{Path: root, Live: true})
	before, same := walk(t, u, "f"), walk(t, u, "same")
	if !before.Live() {
		t.Error("not live")
	}
	if err := os.WriteFile(filepath.Join(root, "f"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	after := walk(t, u, "f")
	if after == before {
		t.Error("the changed file is the same node")
	}
	if walk(t, u, "same") != same {
		t.Error("the unchanged file is another node")
	}
	write(t, root, "new")
	walk(t, u, "new")
	if got := names(t, u, u.Root()); got != "f new same" {
		t.Errorf("names: %s", got)
	}
	os.Remove(filepath.Join(root, "new"))
	if got := names(t, u, u.Root()); got != "f same" {
		t.Errorf("names: %s", got)
	}
}

// Mounts of file systems that are not local disks are shown as empty
// directories, also if they came after the union was opened.
func TestLiveMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	root := t.TempDir()
	write(t, root, "early/under", "late/under", "plain/x", "file")
	mount := func(name string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := unix.Mount("t", path, "tmpfs", 0, ""); err != nil {
			t.Skipf("tmpfs cannot be mounted: %v", err)
		}
		t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
		write(t, path, "inside")
	}
	mount("early")
	u, upper := open(t, Layer{Path: root, Live: true})
	n := walk(t, u, "early")
	if got := names(t, u, n); got != "" {
		t.Errorf("in a tmpfs: %q", got)
	}
	mount("late")
	if n, err := u.Lookup(u.Root(), "late"); err == nil {
		if got := names(t, u, n); got != "" {
			t.Errorf("in a late tmpfs: %q", got)
		}
	}
	if got := names(t, u, u.Root()); got != "early file late plain" {
		t.Errorf("root: %s", got)
	}
	if _, _, err := u.Mkdir(n, "made", Creation{Mode: 0o755}); err != nil {
		t.Errorf("mkdir at a mount point: %v", err)
	}
	if _, err := os.Stat(filepath.Join(upper, "early/made")); err != nil {
		t.Error(err)
	}
	if err := u.Rmdir(u.Root(), "plain"); err != unix.ENOTEMPTY {
		t.Errorf("rmdir: %v", err)
	}
}

// An unreadable directory of a live layer becomes an empty one of ours when
// its mode or owner is changed, and files nobody may read stay so.
func TestLiveUnreadable(t *testing.T) {
	if !usertest.Active() {
		t.Skip("root may read everything: TestAsUser runs this as a user")
	}
	if _, err := os.ReadDir("/root"); err == nil {
		t.Skip("here everybody may read /root")
	}
	u, _ := open(t, Layer{Path: "/", Live: true})
	n := walk(t, u, "root")
	if _, err := u.Lookup(n, ".profile"); err != unix.EACCES {
		t.Errorf("lookup: %v", err)
	}
	if _, err := u.ReadDir(n); err != unix.EACCES {
		t.Errorf("list: %v", err)
	}
	mode := uint32(0o755)
	if err := u.Setattr(n, SetAttr{Mode: &mode}); err != nil {
		t.Fatal(err)
	}
	if got := names(t, u, n); got != "" {
		t.Errorf("names: %s", got)
	}
	if _, _, err := u.Create(n, "mine", Creation{Mode: 0o644}); err != nil {
		t.Error(err)
	}
}
