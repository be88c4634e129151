package union

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"plash/internal/usertest"
)

// The names of attributes are the same by a descriptor, of a directory that may
// be searched but not read, and for what the marks of overlayfs hide.
func TestListxattr(t *testing.T) {
	low := t.TempDir()
	write(t, low, "file", "dir/", "closed/in")
	for _, name := range []string{"file", "dir", "closed"} {
		for _, attr := range []string{"user.a", "user.overlay.opaque", "user.overlay.overlay.x"} {
			if err := unix.Setxattr(filepath.Join(low, name), attr, []byte("v"), 0); err != nil {
				t.Skip(err)
			}
		}
	}
	if err := os.Chmod(filepath.Join(low, "closed"), 0o311); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(filepath.Join(low, "closed"), 0o700) })
	usertest.WithRights(t, []string{low}, func() {
		u, err := New(Config{Lowers: []Layer{lay(t, low)}})
		if err != nil {
			t.Error(err)
			return
		}
		defer u.Close()
		check := func(name string, fd int) {
			got, err := u.Listxattr(walk(t, u, name), fd)
			got = slices.DeleteFunc(got, func(s string) bool { return strings.HasPrefix(s, "security.") })
			slices.Sort(got)
			if err != nil || !slices.Equal(got, []string{"user.a", "user.overlay.x"}) {
				t.Errorf("%s, descriptor %d: %q, %v", name, fd, got, err)
			}
		}
		fd, err := u.Open(walk(t, u, "file"))
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		check("file", fd)
		check("file", -1)
		check("dir", -1)
		// A user may read the attributes of what he may read only; root of
		// what he likes. What matters is that the way there is the same.
		want, wantErr := unix.Listxattr(filepath.Join(low, "closed"), nil)
		got, err := u.Listxattr(walk(t, u, "closed"), -1)
		if err != wantErr || wantErr == nil && len(got) == 0 {
			t.Errorf("closed: %q, %v; the file system says %d, %v", got, err, want, wantErr)
		}
	})
}

// TestCapability: that a file has none is remembered until it gets one.
func TestCapability(t *testing.T) {
	low := t.TempDir()
	write(t, low, "low", "other")
	u, changes := open(t, lay(t, low))
	caps := append([]byte{1, 0, 0, 2, 0, 1 << 5}, make([]byte, 14)...) // linux/capability.h: revision 2, CAP_NET_RAW
	mine := Creation{Mode: unix.S_IFREG | 0o755, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	made, _, err := u.Mknod(u.root, "made", mine, 0)
	check(t, err)
	ask := func(n *Node, want error) {
		t.Helper()
		if k, err := u.Getxattr(n, Capability, make([]byte, 100)); err != want || err == nil && k != len(caps) {
			t.Errorf("capability: %d bytes, %v; want %v", k, err, want)
		}
	}
	for _, n := range []*Node{made, walk(t, u, "low")} {
		ask(n, unix.ENODATA)
		if err := u.Setxattr(n, Capability, caps, 0); err != nil {
			t.Skip("capabilities cannot be given here:", err)
		}
		ask(n, nil)
		check(t, u.Removexattr(n, Capability))
		ask(n, unix.ENODATA)
	}
	// The file system is not asked once more, of a new file not once, but always of
	// one that may change without our doing.
	next, _, err := u.Mknod(u.root, "next", mine, 0)
	check(t, err)
	other := walk(t, u, "other")
	ask(other, unix.ENODATA)
	lives, _ := open(t, Layer{Path: low, Live: true})
	live := walk(t, lives, "other")
	if _, err := lives.Getxattr(live, Capability, nil); err != unix.ENODATA {
		t.Error(err)
	}
	for _, path := range []string{filepath.Join(changes, "made"), filepath.Join(changes, "next"), filepath.Join(low, "other")} {
		check(t, unix.Setxattr(path, Capability, caps, 0))
	}
	for _, n := range []*Node{made, next, other} {
		ask(n, unix.ENODATA)
	}
	if _, err := lives.Getxattr(live, Capability, nil); err != nil {
		t.Error("a live layer's file:", err)
	}
}
