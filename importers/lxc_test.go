package importers

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"plash/internal/lxctest"
)

// lxcServer is a server with a few images of each kind.
func lxcServer(t *testing.T) (*lxctest.Server, LXC) {
	s := lxctest.New(t)
	here := ":" + lxcArch() + ":default"
	archive := sample(t)
	for _, name := range []string{"alpine:3.9", "alpine:3.20", "alpine:edge", "archlinux:current",
		"centos:9-Stream", "centos:10-Stream", "slackware:15.0", "slackware:current"} {
		s.Add(name+here, "20260929_13:00", archive)
	}
	s.Add("alpine:3.20"+here, "20260928_13:00", []byte("an older one"))
	s.Add("alpine:3.21:elsewhere:default", "20260929_13:00", archive)
	s.Add("alpine:3.22:"+lxcArch()+":cloud", "20260929_13:00", archive)
	s.Add("openwrt:24.10:elsewhere:default", "20260929_13:00", archive)
	s.Add("debian:bookworm"+here, "20260929_05:24", archive, "12")
	s.Add("debian:trixie"+here, "20260929_05:24", archive, "13")
	s.Add("debian:forky"+here, "20260929_05:24", archive, "14")
	s.Add("debian:sid"+here, "20260929_05:24", archive)
	return s, LXC{Server: s.URL, Progress: io.Discard}
}

// url is where the server of lxcServer has an image.
func imageURL(s *lxctest.Server, name, built string) string {
	return s.URL + "/images/" + strings.ReplaceAll(name, ":", "/") + "/" + lxcArch() + "/default/" + built + "/rootfs.tar.xz"
}

// TestLXCResolve: names and what they mean, by either index.
func TestLXCResolve(t *testing.T) {
	for _, older := range []bool{false, true} {
		t.Run(fmt.Sprintf("older=%v", older), func(t *testing.T) {
			s, l := lxcServer(t)
			if older {
				s.Set(lxctest.Index, nil)
			}
			resolves := func(name, want string) {
				t.Helper()
				built := "20260929_13:00"
				if strings.HasPrefix(name, "debian") {
					built = "20260929_05:24"
				}
				image, err := l.Resolve(name)
				if err != nil || image.Name() != want || image.URL != imageURL(s, want, built) {
					t.Errorf("%s: %s %s, %v", name, image.Name(), image.URL, err)
				}
			}
			fails := func(name, want string) {
				t.Helper()
				if image, err := l.Resolve(name); err == nil || err.Error() != strings.ReplaceAll(want, "HERE", lxcArch()) {
					t.Errorf("%s: %s, %v\nwant %s", name, image.Name(), err, want)
				}
			}
			resolves("alpine:3.20", "alpine:3.20")
			resolves("alpine:edge", "alpine:edge")
			resolves("alpine", "alpine:3.20")
			resolves("archlinux", "archlinux:current")
			resolves("slackware", "slackware:15.0")
			resolves("centos", "centos:10-Stream")
			resolves("debian:trixie", "debian:trixie")
			if older { // which has no aliases
				fails("debian:12", "no such version: debian:12: there are bookworm, forky, sid, trixie")
				resolves("debian", "debian:trixie")
			} else {
				resolves("debian:12", "debian:bookworm")
				resolves("debian", "debian:trixie")
			}
			fails("alpin:3.20", "no such distribution: alpin: there is alpine")
			fails("Alpine", "no such distribution: Alpine: there is alpine")
			fails("nixos", "no such distribution: nixos: plash pull:lxc --list prints those there are")
			fails("alpine:3.2", "no such version: alpine:3.2: there are 3.9, 3.20, edge")
			fails("alpine:3.22", "no such version: alpine:3.22: there are 3.9, 3.20, edge")
			fails("alpine:3.20:x", "no such version: alpine:3.20:x: there are 3.9, 3.20, edge")
			fails("alpine:3.21", "no image for HERE: alpine:3.21: only for elsewhere")
			fails("openwrt", "no image for HERE: openwrt: only for elsewhere")
			fails("alpine:", "alpine:: not the name of an image, which is DISTRO:VERSION or DISTRO")
			fails(":3.20", ":3.20: not the name of an image, which is DISTRO:VERSION or DISTRO")
			for n := range 20 {
				s.Add(fmt.Sprintf("alpine:2.%d:%s:default", n, lxcArch()), "20200101_00:00", nil)
			}
			if older {
				s.Set(lxctest.Index, nil)
			}
			fails("alpine:1", "no such version: alpine:1: plash pull:lxc --list 'alpine:*' prints those there are")
		})
	}
}

// TestLXCNewest: which of its versions a distribution's name alone means.
func TestLXCNewest(t *testing.T) {
	for _, c := range []struct{ distro, built, versions, want string }{
		{"alpine", "20260929", "3.9 3.20 edge 3.10", "3.20"},
		{"alpine", "20260929", "edge", "edge"},
		{"debian", "20260929", "bookworm/12 trixie/13 forky/14 bullseye/11 sid", "trixie"},
		{"debian", "20280101", "bookworm/12 trixie/13 forky/14 bullseye/11 sid", "forky"},
		{"debian", "20260929", "forky/14 sid", "forky"},
		{"ubuntu", "20260329", "jammy/22.04 noble/24.04 resolute/26.04 devel", "noble"},
		{"ubuntu", "20260429", "jammy/22.04 noble/24.04 resolute/26.04 devel", "resolute"},
		{"mint", "20260929", "vera zena xia faye", "zena"},
		{"alt", "20260929", "Sisyphus p9 p11 p10", "p11"},
		{"opensuse", "20260929", "tumbleweed 15.6 16.0", "16.0"},
		{"nixos", "20260929", "unstable 25.11 26.05", "26.05"},
		{"plamo", "20260929", "7.x 8.x", "8.x"},
		{"openwrt", "20260929", "snapshot 24.10 25.12", "25.12"},
	} {
		var images []LXCImage
		for _, name := range strings.Fields(c.versions) {
			version, alias, ok := strings.Cut(name, "/")
			image := LXCImage{Distro: c.distro, Version: version, arch: "amd64", built: c.built + "_05:24"}
			if ok {
				image.aliases = []string{alias}
			}
			images = append(images, image)
		}
		for range images { // in whatever order
			images = append(images[1:], images[0])
			if image, err := resolve(images, c.distro, "amd64"); err != nil || image.Version != c.want {
				t.Errorf("%s %s: %s, %v", c.distro, c.versions, image.Version, err)
			}
		}
	}
}

func TestLXCList(t *testing.T) {
	s, l := lxcServer(t)
	lists := func(pattern, want string) {
		t.Helper()
		names, err := l.List(pattern)
		if got := strings.Join(names, " "); err != nil || got != want {
			t.Errorf("%s: %s, %v", pattern, got, err)
		}
	}
	all := "alpine:3.9 alpine:3.20 alpine:edge archlinux:current centos:9-Stream centos:10-Stream " +
		"debian:bookworm debian:forky debian:sid debian:trixie slackware:15.0 slackware:current"
	lists("", all)
	lists("*", all)
	lists("current", "archlinux:current slackware:current")
	lists("alpine:*", "alpine:3.9 alpine:3.20 alpine:edge")
	lists("*:[39]*", "alpine:3.9 alpine:3.20 centos:9-Stream")
	lists("debian:12", "debian:bookworm")
	lists("lpine*", "")
	lists("none", "")
	if _, err := l.List("[a"); err == nil || err.Error() != "[a: not a pattern" {
		t.Error(err)
	}
	s.Set(lxctest.Index, nil)
	lists("", all)
}

// TestLXCOddNames: what cannot be shown or typed is not taken from an index,
// and no address is one outside of the server's own.
func TestLXCOddNames(t *testing.T) {
	s := lxctest.New(t)
	l := LXC{Server: s.URL + "/sub", Progress: io.Discard}
	for _, index := range []string{lxctest.Index, lxctest.Images, lxctest.Older} {
		defer func() {
			s.Set("/sub"+index, nil)
		}()
	}
	s.Set("/sub"+lxctest.Index, []byte(`{"index": {
		"other": {"datatype": "image-ids", "path": "nowhere"},
		"images": {"datatype": "image-downloads", "path": "../../list"}}}`))
	product := func(path string) string {
		return `{"versions": {"20260101_00:00": {"items": {"x": {"ftype": "root.tar.xz", "path": "` + path + `"}}}}}`
	}
	s.Set("/sub/list", []byte(`{"products": {
		"esc\u001b[31m:1:`+lxcArch()+`:default": `+product("x")+`,
		"blank x:1:`+lxcArch()+`:default": `+product("x")+`,
		"short:1": `+product("x")+`,
		":1:`+lxcArch()+`:default": `+product("x")+`,
		"good:2:`+lxcArch()+`:default": `+product("../../a b?%2e/x")+`,
		"unbuilt:2:`+lxcArch()+`:default": {},
		"nofile:2:`+lxcArch()+`:default": `+product("")+`,
		"host:1:`+lxcArch()+`:default": `+product("http://evil/x")+`}}`))
	names, err := l.List("")
	if err != nil || strings.Join(names, " ") != "good:2 host:1" {
		t.Error(names, err)
	}
	for name, want := range map[string]string{"good": "/sub/a%20b%3F%252e/x", "host": "/sub/http:/evil/x"} {
		if image, err := l.Resolve(name); err != nil || image.URL != s.URL+want {
			t.Error(image.URL, err)
		}
	}
	s.Set("/sub"+lxctest.Index, nil)
	s.Set("/sub"+lxctest.Older, []byte("# comment\n\nbroken line\na;b;c\nesc\x1b;1;"+lxcArch()+";default;1;/x/\n"+
		"good;1;"+lxcArch()+";default;20260101;/x/\ngood;2;"+lxcArch()+";default;20260101;\ngood;3;"+lxcArch()+";default;20260101;../../y\n"))
	names, err = l.List("")
	if err != nil || strings.Join(names, " ") != "good:1 good:3" {
		t.Error(names, err)
	}
	if image, err := l.Resolve("good:3"); err != nil || image.URL != s.URL+"/sub/y/rootfs.tar.xz" {
		t.Error(image.URL, err)
	}
}

// on lets f have the requests for one path only.
func on(path string, f trouble) func(string, int, http.ResponseWriter, []byte) bool {
	return func(p string, n int, w http.ResponseWriter, file []byte) bool {
		return p == path && f(n, w, file)
	}
}

// TestLXCPull: images are made of what has the right hash, whatever the server
// does on the way, and of nothing else.
func TestLXCPull(t *testing.T) {
	impatient(t, 5*time.Second)
	s, l := lxcServer(t)
	archive := "/images/alpine/3.20/" + lxcArch() + "/default/20260929_13:00/rootfs.tar.xz"
	good := s.Files()
	for _, index := range []string{lxctest.Index, lxctest.Older} {
		t.Run(index, func(t *testing.T) {
			if index == lxctest.Older {
				s.Set(lxctest.Index, nil)
			}
			for name, trouble := range troubles {
				for _, path := range []string{index, lxctest.Images, archive} {
					if path == lxctest.Images && index == lxctest.Older {
						continue
					}
					switch name {
					case "says nothing", "stops in the middle", "stays unavailable":
						continue // take as long as is tried
					case "redirects in a circle":
						continue // here it ends in a 404
					}
					s.Trouble(on(path, trouble))
					data := newStore(t)
					id, err := l.Pull(data, "alpine:3.20")
					if err == nil {
						imported(t, data, id, err)
						if m, err := data.Meta(id); err != nil || m.Made != "pull:lxc alpine:3.20" {
							t.Errorf("made %q, %v", m.Made, err)
						}
					} else {
						unimported(t, data, err, err.Error())
						if !strings.HasPrefix(err.Error(), s.URL) {
							t.Error(err)
						}
					}
					// Only what lasts fails.
					lasts := strings.HasPrefix(name, "stays") || name == "redirects to a file" || strings.Contains(name, "each") ||
						strings.Contains(name, "lies") || strings.Contains(name, "then has") || name == "gone" || name == "forbidden"
					older := path == lxctest.Index && (name == "gone" || name == "forbidden") // takes the other index
					if (err != nil) != (lasts && !older) {
						t.Errorf("%s at %s: %v", name, path, err)
					}
				}
			}
			s.Trouble(nil)
		})
	}
	for path, data := range good {
		s.Set(path, data)
	}
}

// TestLXCBadPull: each way to fail, with its one line.
func TestLXCBadPull(t *testing.T) {
	impatient(t, time.Second)
	s, l := lxcServer(t)
	path := "/images/alpine/3.20/" + lxcArch() + "/default/20260929_13:00/rootfs.tar.xz"
	good := s.Files()
	fails := func(want string) {
		t.Helper()
		data := newStore(t)
		_, err := l.Pull(data, "alpine:3.20")
		unimported(t, data, err, want)
		for path, data := range good {
			s.Set(path, data)
		}
	}
	flipped := bytes.Clone(good[path])
	flipped[len(flipped)/2] ^= 1
	s.Set(path, flipped)
	wrongHash := s.URL + path + ": wrong hash: its SHA-256 is "
	data := newStore(t)
	_, err := l.Pull(data, "alpine:3.20")
	if err == nil || !strings.HasPrefix(err.Error(), wrongHash) {
		t.Error(err)
	} else {
		fails(err.Error())
	}
	s.Set(path, good[path][1:])
	fails(fmt.Sprintf("%s%s: wrong size: %d bytes, the index says %d", s.URL, path, len(good[path])-1, len(good[path])))
	s.Trouble(on(path, func(_ int, w http.ResponseWriter, file []byte) bool {
		w.(http.Flusher).Flush() // no length
		w.Write(append(file, make([]byte, 1<<20)...))
		return true
	}))
	fails(fmt.Sprintf("%s%s: wrong size: %d bytes, the index says %d", s.URL, path, len(good[path])+1, len(good[path])))
	s.Trouble(nil)
	s.Set(path, nil)
	fails(s.URL + path + ": 404 Not Found")

	s.Add("alpine:3.20:"+lxcArch()+":default", "20260930_13:00", []byte("hello"))
	fails(strings.Replace(s.URL+path, "29_", "30_", 1) + ": not an archive")
	half := good[path][:len(good[path])/2]
	s.Add("alpine:3.20:"+lxcArch()+":default", "20260930_13:00", half)
	fails(strings.Replace(s.URL+path, "29_", "30_", 1) + ": truncated archive: unexpected EOF")

	for _, c := range []struct{ index, list, want string }{
		{"<html>", "", lxctest.Index + ": not an index of images: invalid character '<' looking for beginning of value"},
		{`{"index": 5}`, "", lxctest.Index + ": not an index of images: json: cannot unmarshal"},
		{"{}", "", ": no images in its index"},
		{"", "[1", lxctest.Images + ": not an index of images: unexpected end of JSON input"},
		{"", "{}", ": no images in its index"},
		{`{"index": {"x": {"path": "none"}}}`, "", "/none: 404 Not Found"},
	} {
		if c.index != "" {
			s.Set(lxctest.Index, []byte(c.index))
		}
		if c.list != "" {
			s.Set(lxctest.Images, []byte(c.list))
		}
		if _, err := l.Resolve("alpine"); err == nil || !strings.HasPrefix(err.Error(), s.URL+c.want) {
			t.Errorf("%s%s: %v", c.index, c.list, err)
		}
		fails(err2(l.Resolve("alpine")))
	}
	s.Set(lxctest.Images, bytes.Repeat([]byte(" "), maxIndex+1))
	fails(s.URL + lxctest.Images + ": larger than 64 MiB, as no index of images is")
	s.Set(lxctest.Index, nil)
	s.Set(lxctest.Older, nil)
	fails(s.URL + ": no index of LXC images: " + s.URL + lxctest.Older + ": 404 Not Found")
	// The older index's images have their hashes beside them.
	s.Set(lxctest.Index, nil)
	s.Set(path, flipped)
	if _, err := l.Pull(newStore(t), "alpine:3.20"); err == nil || !strings.HasPrefix(err.Error(), wrongHash) {
		t.Error(err)
	}
	sums := strings.TrimSuffix(path, "rootfs.tar.xz") + "SHA256SUMS"
	s.Set(path, good[path])
	s.Set(sums, []byte("abc other\n"))
	if _, err := l.Pull(newStore(t), "alpine:3.20"); err == nil || err.Error() != s.URL+path+": not in "+s.URL+sums {
		t.Error(err)
	}
	s.Set(sums, nil)
	withoutHash := newStore(t)
	id, err := l.Pull(withoutHash, "alpine:3.20")
	imported(t, withoutHash, id, err)

	// Nothing has a name while it is downloaded, so a killed plash leaves nothing.
	busy := newStore(t)
	s.Trouble(on(path, func(int, http.ResponseWriter, []byte) bool {
		noLitter(t, busy)
		return false
	}))
	id, err = l.Pull(busy, "alpine:3.20")
	imported(t, busy, id, err)
	if s.Requests()[path] != 1 {
		t.Error(s.Requests())
	}

	for _, server := range []string{"", "images", "ftp://host", "http:///x", "http://a b/"} {
		want := server + ": not the address of an image server: it begins with http:// or https://"
		if _, err := (LXC{Server: server}).Resolve("alpine"); err == nil || err.Error() != want {
			t.Error(err)
		}
	}
	want := "http://127.0.0.1:1" + lxctest.Index + ": Connection refused"
	if _, err := (LXC{Server: "http://127.0.0.1:1"}).Resolve("alpine"); err == nil || err.Error() != want {
		t.Error(err)
	}
}

func err2(_ LXCImage, err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}

// TestLXCHugeIndex: a hundred times that of the real server is read.
func TestLXCHugeIndex(t *testing.T) {
	var list bytes.Buffer
	list.WriteString(`{"products": {`)
	for n := range 100000 {
		fmt.Fprintf(&list, `"d%d:1:%s:default": {"aliases": "d%d/one", "versions": {"20260101_00:00": {"items": {"root.tar.xz":
			{"ftype": "root.tar.xz", "path": "x/%d", "sha256": "%064d", "size": 5}}}}},`, n, lxcArch(), n, n, n)
	}
	list.WriteString(`"last:2:amd64:default": {}}}`)
	s := lxctest.New(t)
	s.Set(lxctest.Images, list.Bytes())
	if image, err := (LXC{Server: s.URL}).Resolve("d99999:one"); err != nil || image.URL != s.URL+"/x/99999" {
		t.Error(image, err)
	}
}

// A gpgHome is a directory with a secret key in it.
type gpgHome string

func newGPGHome(t *testing.T, expires string) gpgHome {
	// The path of its agent's socket must be short.
	dir, err := os.MkdirTemp("/tmp", "plash-gpg-")
	if err != nil {
		t.Fatal(err)
	}
	home := gpgHome(dir)
	t.Cleanup(func() {
		exec.Command("gpgconf", "--homedir", dir, "--kill", "all").Run()
		os.RemoveAll(dir)
	})
	home.gpg(t, nil, "--faked-system-time", "20200101T000000", "--passphrase", "", "--quick-gen-key", "Test <test@example.org>", "ed25519", "sign", expires)
	return home
}

func (g gpgHome) gpg(t *testing.T, stdin []byte, words ...string) []byte {
	t.Helper()
	cmd := exec.Command("gpg", append([]string{"--homedir", string(g), "--batch", "--quiet", "--pinentry-mode", "loopback"}, words...)...)
	var errs bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s", words, err, errs.String())
	}
	return out
}

// keyring returns a file with the public key.
func (g gpgHome) keyring(t *testing.T) string {
	file := filepath.Join(t.TempDir(), "keyring.gpg")
	if err := os.WriteFile(file, g.gpg(t, nil, "--export"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestLXCSignatures: with a keyring, nothing is taken that is not signed.
func TestLXCSignatures(t *testing.T) {
	for _, program := range []string{"gpg", "gpgv"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no %s on this machine", program)
		}
	}
	impatient(t, time.Second)
	home, stranger := newGPGHome(t, "never"), newGPGHome(t, "never")
	l := LXC{Keyring: home.keyring(t), Progress: io.Discard}
	detached := []string{"--armor", "--detach-sign", "--output", "-"}

	// Each index with the signatures that its server has, and what is signed.
	for _, c := range []struct{ signature, files string }{
		{".gpg", lxctest.Index + " " + lxctest.Images},
		{".asc", lxctest.Older + " SHA256SUMS"},
	} {
		s := lxctest.New(t)
		l.Server = s.URL
		path := s.Add("alpine:3.20:"+lxcArch()+":default", "20260929_13:00", sample(t))
		if c.signature == ".asc" {
			s.Set(lxctest.Index, nil)
		}
		files := strings.Fields(strings.ReplaceAll(c.files, "SHA256SUMS", strings.TrimSuffix(path, "rootfs.tar.xz")+"SHA256SUMS"))
		sign := func() {
			s.Set(path, sample(t))
			for _, file := range files {
				s.Set(file+c.signature, home.gpg(t, s.Files()[file], detached...))
			}
		}
		fails := func(want string) {
			t.Helper()
			data := newStore(t)
			_, err := l.Pull(data, "alpine:3.20")
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v\nwant %s", err, want)
			} else {
				unimported(t, data, err, err.Error())
			}
		}
		sign()
		data := newStore(t)
		id, err := l.Pull(data, "alpine:3.20")
		imported(t, data, id, err)
		for _, file := range files {
			signed := file + c.signature
			content := s.Files()[file]
			s.Set(signed, nil)
			fails(s.URL + signed + ": no signature: 404 Not Found")
			s.Set(signed, stranger.gpg(t, content, detached...))
			fails(s.URL + signed + ": bad signature: gpgv: Can't check signature: No public key")
			s.Set(signed, home.gpg(t, []byte("something else"), detached...))
			fails(s.URL + signed + ": bad signature: gpgv: BAD signature from")
			// A signed message of its own in the signature's place.
			s.Set(signed, home.gpg(t, content, "--armor", "--sign", "--output", "-"))
			fails(s.URL + signed + ": bad signature: ")
			s.Set(signed, home.gpg(t, content, "--clearsign", "--output", "-"))
			fails(s.URL + signed + ": bad signature: ")
			s.Set(signed, []byte{})
			fails(s.URL + signed + ": bad signature: ")
			sign()
			s.Set(file, append(bytes.Clone(content), '\n'))
			fails(s.URL + signed + ": bad signature: gpgv: BAD signature from")
			s.Set(file, content)
		}
		// The hash is what the signature vouches for.
		s.Set(path, bytes.ToUpper(sample(t)))
		fails(": wrong hash: ")
		sign()
		if c.signature == ".asc" {
			s.Set(files[1], nil)
			fails("SHA256SUMS: 404 Not Found")
		}
	}

	s := lxctest.New(t)
	l.Server = s.URL
	expired := newGPGHome(t, "2020-02-01")
	l.Keyring = expired.keyring(t)
	s.Set(lxctest.Index+".gpg", expired.gpg(t, s.Files()[lxctest.Index], append([]string{"--faked-system-time", "20200102T000000"}, detached...)...))
	if _, err := l.List(""); err == nil || !strings.Contains(err.Error(), "bad signature") {
		t.Error("signed by a key that has expired:", err)
	}
	l.Keyring = "/none"
	if _, err := l.List(""); err == nil || err.Error() != "keyring /none: No such file or directory" {
		t.Error(err)
	}
	l.Keyring = expired.keyring(t)
	t.Setenv("PATH", "/none")
	if _, err := l.List(""); err == nil || err.Error() != "keyring "+l.Keyring+": signatures cannot be checked: gpgv: command not found" {
		t.Error(err)
	}
}

func TestCompareVersions(t *testing.T) {
	order := []string{"", "1", "3", "3.9", "3.10", "3.20", "3.20.1", "8.x", "9-Stream", "10-Stream", "edge", "p9", "p11"}
	for i, a := range order {
		for j, b := range order {
			if got := compareVersions(a, b); got != compareInts(i, j) {
				t.Errorf("%s, %s: %d", a, b, got)
			}
		}
	}
}

func compareInts(a, b int) int { return slices.Compare([]int{a}, []int{b}) }
