package launcher

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"plash/internal/passwd"
)

func TestResolve(t *testing.T) {
	// A tree: where links lead; "/" is a directory, "" a file.
	tree := map[string]string{
		"a": "/", "a/b": "/", "a/file": "", "up": "a/../../../a/b", "abs": "/a", "loop": "loop",
		"dangling": "/none/there", "a/out": "../../../../etc",
	}
	at := func(rel string) (uint32, string, error) {
		switch to, ok := tree[rel]; {
		case !ok:
			return 0, "", unix.ENOENT
		case to == "/":
			return unix.S_IFDIR, "", nil
		case to == "":
			return unix.S_IFREG, "", nil
		default:
			return unix.S_IFLNK, to, nil
		}
	}
	for _, test := range []struct {
		path string
		last bool
		rel  string
		mode uint32
		err  error
	}{
		{"/a/b", true, "a/b", unix.S_IFDIR, nil},
		{"//a/./b/", true, "a/b", unix.S_IFDIR, nil},
		{"/a/../../a/file", true, "a/file", unix.S_IFREG, nil},
		{"/up", true, "a/b", unix.S_IFDIR, nil},
		{"/up", false, "up", unix.S_IFLNK, nil},
		{"/abs/b", false, "a/b", unix.S_IFDIR, nil},
		{"/abs/new/er", true, "a/new/er", 0, nil},
		{"/dangling", true, "none/there", 0, nil},
		{"/a/out/x", true, "etc/x", 0, nil},
		{"/new/../../x", true, "x", 0, nil},
		{"/a/file/x", true, "", 0, unix.ENOTDIR},
		{"/loop/x", true, "", 0, unix.ELOOP},
		{"/", true, "", unix.S_IFDIR, nil},
	} {
		rel, mode, err := resolve(test.path, test.last, at)
		if rel != test.rel || mode != test.mode || err != test.err {
			t.Errorf("resolve(%q, %v) = %q, %o, %v", test.path, test.last, rel, mode, err)
		}
	}
}

func TestEnvironment(t *testing.T) {
	root := passwd.Entry{Name: "root", Home: "/root", Shell: "/bin/ash"}
	host := []string{"HOME=/home/me", "PATH=/host", "USER=me", "_HOST_PATH=/outermost", "LANG=C", "A=1", "B=2", "PRE_X=3",
		"PLASH_EXPORT=B:C", "TERM=dumb", "=broken", "BOTH=x=y"}
	rules := envRules{Set: []string{"PATH=/image"}, Names: []string{"A"}, Prefixes: []string{"PRE_"}, DataDir: "/mnt/data"}
	want := []string{"A=1", "B=2", "HOME=/home/me", "LOGNAME=root", "PATH=/image", "PLASH_DATA=/mnt/data", "PRE_X=3",
		"SHELL=/bin/ash", "TERM=dumb", "USER=root",
		"_HOST_BOTH=x=y", "_HOST_LANG=C", "_HOST_PATH=/outermost", "_HOST_PLASH_EXPORT=B:C", "_HOST_USER=me"}
	if got := rules.environment(host, root); !slices.Equal(got, want) {
		t.Errorf("a run:\n got %q\nwant %q", got, want)
	}
	rules.Build = true
	got := rules.environment(host, root)
	for _, entry := range []string{"_HOST_B=2", "PIP_BREAK_SYSTEM_PACKAGES=1", "DEBIAN_FRONTEND=noninteractive"} {
		if !slices.Contains(got, entry) {
			t.Errorf("a build has no %s: %q", entry, got)
		}
	}
	// What does not pass is the image's.
	got = (&envRules{}).environment([]string{"HOME=", "FOO=bar"}, root)
	if !slices.Contains(got, "HOME=/root") || !slices.Contains(got, "PATH="+usualPath) || !slices.Contains(got, "_HOST_FOO=bar") {
		t.Errorf("%q", got)
	}
}

func TestHints(t *testing.T) {
	for _, err := range []error{
		hintDevice(unix.ENOENT), hintDevice(unix.EACCES), hintUserNamespace(unix.ENOSPC), hintUserNamespace(unix.EINVAL),
	} {
		text := err.Error()
		if !strings.Contains(text, " (") || strings.Contains(text, "\n") {
			t.Errorf("no hint, or more than a line: %s", text)
		}
	}
}
