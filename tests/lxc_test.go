package tests

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"plash/internal/lxctest"
)

// lxcServer starts a server that PLASH_LXC_SERVER names, with the tiny root
// file system as alpine 3.20, and an older and an odd one.
func lxcServer(t *testing.T) *lxctest.Server {
	t.Helper()
	if _, err := os.Stat(tiny); err != nil {
		t.Skip("no static busybox on this machine: tests/setup.sh installs it")
	}
	archive, err := exec.Command("xz", "-0", "-c", tiny).Output()
	if err != nil {
		t.Skipf("xz: %v", err)
	}
	s := lxctest.New(t)
	arch := ":" + runtime.GOARCH + ":default"
	s.Add("alpine:3.20"+arch, "20260928_13:00", []byte("the one of yesterday"))
	s.Add("alpine:3.20"+arch, "20260929_13:00", archive)
	s.Add("alpine:3.9"+arch, "20260929_13:00", archive)
	s.Add("alpine:edge"+arch, "20260929_13:00", []byte("hello"))
	s.Add("debian:bookworm"+arch, "20260929_05:24", archive, "12")
	s.Add("openwrt:24.10:elsewhere:default", "20260929_05:24", archive)
	t.Setenv("PLASH_LXC_SERVER", s.URL)
	t.Setenv("PLASH_LXC_KEYRING", "")
	return s
}

// TestPullLXC: an image by its name, today's and yesterday's, and what it says
// of others.
func TestPullLXC(t *testing.T) {
	each(t, everyone, 2*time.Minute, func(t *testing.T) {
		s := lxcServer(t)
		url := s.URL + "/images/alpine/3.20/" + runtime.GOARCH + "/default/20260929_13:00/rootfs.tar.xz"
		for _, words := range [][]string{
			{"pull:lxc", "alpine:3.20", "--dry"}, {"pull:lxc", "--dry", "alpine"},
			{"import-lxc", "alpine", "--dry"}, {"import-lxcimages", "alpine:3.20", "--dry"},
		} {
			plash(t, words...).prints(url)
		}
		plash(t, "pull:lxc", "--list").prints("alpine:3.9\nalpine:3.20\nalpine:edge\ndebian:bookworm")
		plash(t, "pull:lxc", "--list", "alpine:3*").prints("alpine:3.9\nalpine:3.20")
		plash(t, "pull:lxc", "bian", "--list").prints("debian:bookworm")
		plash(t, "pull:lxc", "--list", "none").prints("")
		if _, err := os.Stat(os.Getenv("PLASH_DATA")); err == nil {
			t.Error("there is a data directory, but no image was made")
		}
		for _, words := range []string{"pull:lxc", "pull:lxc --dry", "pull:lxc a b", "pull:lxc --list --dry", "pull:lxc --nope alpine"} {
			r := plash(t, strings.Fields(words)...).code(1)
			if r.err != "usage: plash pull:lxc DISTRO:VERSION [--dry] | --list [PATTERN]\n" || r.out != "" {
				r.fatal("its usage")
			}
		}

		// Failures leave nothing and use no id.
		plash(t, "pull:lxc", "alpin:3.20").fails("^no such distribution: alpin: there is alpine$")
		plash(t, "pull:lxc", "alpine:3.99").fails("^no such version: alpine:3.99: there are 3.9, 3.20, edge$")
		plash(t, "pull:lxc", "openwrt:24.10").fails("^no image for " + runtime.GOARCH + ": openwrt:24.10: only for elsewhere$")
		plash(t, "pull:lxc", "alpine:edge").fails(`/rootfs\.tar\.xz: not an archive$`)
		s.Trouble(func(path string, n int, w http.ResponseWriter, file []byte) bool {
			if !strings.HasSuffix(path, ".xz") {
				return false
			}
			w.Header().Set("Content-Length", "5000000")
			w.Write(file[:len(file)/2])
			panic(http.ErrAbortHandler)
		})
		plash(t, "pull:lxc", "alpine:3.20").fails(`/rootfs\.tar\.xz: wrong size: 5000000 bytes, the index says [0-9]+$`)
		noTemps(t)
		s.Trouble(func(path string, n int, w http.ResponseWriter, file []byte) bool {
			if n > 1 { // busy, broken off, and only then good
				return false
			}
			if !strings.HasSuffix(path, ".xz") {
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
			w.Write(file[:len(file)/2])
			panic(http.ErrAbortHandler)
		})
		r := plash(t, "pull:lxc", "alpine")
		if id := r.id(); id != "1" || r.err != "" {
			r.fatal("the first id, and silence")
		}
		plash(t, "run", "1", "cat", "/etc/motd").prints("a tiny system")
		noTemps(t)

		s.Trouble(nil)
		s.Set(lxctest.Index, nil)
		plash(t, "import-lxc", "alpine:3.20").id()
		plash(t, "pull:url", plash(t, "pull:lxc", "debian:bookworm", "--dry").ok()).id()
		// Another archive than the index says.
		path := strings.TrimPrefix(url, s.URL)
		s.Set(path, append(s.Files()[path], 0))
		plash(t, "pull:lxc", "alpine:3.20").fails("wrong hash: its SHA-256 is [0-9a-f]{64}, the index says otherwise$")
		s.Set(lxctest.Older, nil)
		plash(t, "pull:lxc", "alpine").fails(": no index of LXC images: .*: 404 Not Found$")
		t.Setenv("PLASH_LXC_SERVER", "http://127.0.0.1:1")
		plash(t, "pull:lxc", "alpine").fails("^http://127.0.0.1:1/streams/v1/index.json: Connection refused$")
		t.Setenv("PLASH_LXC_SERVER", "nowhere")
		plash(t, "pull:lxc", "alpine").fails("^nowhere: not the address of an image server: ")
		noTemps(t)
	})
}

// TestLXCKeyring: with a keyring, indexes without a signature by one of its
// keys are refused, for ordinary users too.
func TestLXCKeyring(t *testing.T) {
	each(t, everyone, 2*time.Minute, func(t *testing.T) {
		for _, program := range []string{"gpg", "gpgv"} {
			if _, err := exec.LookPath(program); err != nil {
				t.Skipf("no %s on this machine: tests/setup.sh installs it", program)
			}
		}
		s := lxcServer(t)
		// The path of the agent's socket must be short.
		home, err := os.MkdirTemp("/tmp", "plash-gpg-")
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			run(t, "gpgconf", "--homedir", home, "--kill", "all").ok()
			os.RemoveAll(home)
		}()
		gpg := func(words ...string) {
			t.Helper()
			run(t, append([]string{"gpg", "--homedir", home, "--batch", "--quiet", "--yes", "--passphrase", "", "--pinentry-mode", "loopback"}, words...)...).ok()
		}
		gpg("--quick-gen-key", "Test <test@example.org>", "ed25519", "sign", "never")
		dir := writable(t)
		keyring := filepath.Join(dir, "keyring.gpg")
		gpg("--output", keyring, "--export")
		t.Setenv("PLASH_LXC_KEYRING", keyring)
		plash(t, "pull:lxc", "alpine").fails(`/index\.json\.gpg: no signature: 404 Not Found$`)
		for _, path := range []string{lxctest.Index, lxctest.Images} {
			file := filepath.Join(dir, "file")
			if err := os.WriteFile(file, s.Files()[path], 0o600); err != nil {
				t.Fatal(err)
			}
			gpg("--armor", "--detach-sign", file)
			s.Set(path+".gpg", []byte(readFile(t, file+".asc")))
		}
		id := plash(t, "pull:lxc", "alpine").id()
		plash(t, "run", id, "cat", "/etc/motd").prints("a tiny system")
		s.Set(lxctest.Images, append(s.Files()[lxctest.Images], '\n'))
		plash(t, "pull:lxc", "alpine").fails(`/images\.json\.gpg: bad signature: gpgv: BAD signature from `)
		plash(t, "pull:lxc", "alpine", "--dry").fails("bad signature")
	})
}

// TestMacroSources: base images and plashfiles that macros take from servers,
// and only the first time.
func TestMacroSources(t *testing.T) {
	each(t, everyone, 2*time.Minute, func(t *testing.T) {
		s := lxcServer(t)
		base := plash(t, "build", "--from", "alpine").id()
		plash(t, "run", base, "cat", "/etc/motd").prints("a tiny system")
		s.Trouble(nil) // counts anew
		for _, words := range [][]string{
			{"build", "--from", "alpine"}, {"build", "-f", "alpine"}, {"build", "-A"}, {"build", "--A"},
			{"build", "--from-lxc", "alpine"}, {"b", "id", "-A"},
		} {
			if r := plash(t, words...); r.id() != base || r.err != "" {
				r.fatal("the same image")
			}
		}
		if n := len(s.Requests()); n != 0 {
			t.Errorf("%d requests for what is there", n)
		}
		plash(t, "eval", "-A", "git").prints("### plash hint: image=" + base + "\napk update\napk add 'git'")
		if id := plash(t, "build", "--from", "alpine:3.20").id(); id == base {
			t.Error("another name is another image")
		}
		other := plash(t, "eval", "--from-lxc", "debian:12", "--run", "x").ok()
		if !strings.HasPrefix(other, "### plash hint: image=") || !strings.HasSuffix(other, "\nx") {
			t.Errorf("a script with an image that is imported for it: %q", other)
		}
		plash(t, "build", "--from", "alpin", "--run", "true").fails("^--from: no such distribution: alpin: there is alpine$")
		plash(t, "-C", "--", "true").fails("^-C: no such distribution: centos: ")

		github := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/user/repo/HEAD/plashfile" {
				http.NotFound(w, r)
				return
			}
			io.WriteString(w, "#!/usr/bin/env plash\n--from alpine\n--run\necho from github >/text\n--entrypoint cat\n")
		}))
		defer github.Close()
		t.Setenv("PLASH_GITHUB", github.URL)
		plash(t, "--from-github", "user/repo", "--", "cat", "/text").prints("from github")
		if r := plash(t, "build", "--eval-github", "user/repo", "--entrypoint", "cat", "/text"); r.id() == "" || r.err != "" {
			r.fatal("to have built that already")
		}
		plash(t, "build", "--from-github", "user/repo", "other").fails("^--from-github: " + github.URL + "/user/repo/HEAD/other: 404 Not Found$")
		plash(t, "build", "--eval-github", "user/none").fails("^--eval-github: .*/user/none/HEAD/plashfile: 404 Not Found$")
		github.Close()
		plash(t, "--from-github", "user/repo", "--run", "echo more >>/text", "--entrypoint", "cat", "/text").prints("from github\nmore")
		plash(t, "build", "--eval-github", "user/repo").fails("/user/repo/HEAD/plashfile: Connection refused$")
		noTemps(t)
	})
}
