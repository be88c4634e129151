package importers

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"plash/store"
)

func newStore(t *testing.T) *store.Store {
	s, err := store.Init(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// imported checks that id has the content of sample; unimported that nothing
// was made and nothing is left.
func imported(t *testing.T, s *store.Store, id store.ID, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := s.Layers(id)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(layers[0].Path, "f01")); string(got) != strings.Repeat("1", 1000) {
		t.Errorf("f01: %d bytes, %v", len(got), err)
	}
	if parent, err := s.Parent(id); parent != 0 || err != nil {
		t.Errorf("parent %v, %v", parent, err)
	}
	noLitter(t, s)
}

func unimported(t *testing.T, s *store.Store, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("error: %v\nwant:  %s", err, want)
	}
	if ids, err := s.Images(); len(ids) > 0 || err != nil {
		t.Errorf("images: %v, %v", ids, err)
	}
	noLitter(t, s)
}

func noLitter(t *testing.T, s *store.Store) {
	t.Helper()
	if names, err := os.ReadDir(filepath.Join(s.Dir(), "tmp")); len(names) > 0 || err != nil {
		t.Errorf("left: %v, %v", names, err)
	}
}

func TestTarfile(t *testing.T) {
	s := newStore(t)
	dir := t.TempDir()
	put := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tarfile := func(path string, stdin io.Reader) error {
		_, err := Tarfile(s, path, stdin, io.Discard)
		return err
	}
	unimported(t, s, tarfile(dir+"/none", nil), dir+"/none: No such file or directory")
	unimported(t, s, tarfile(dir, nil), dir+": Is a directory")
	text := put("text", []byte("hello"))
	unimported(t, s, tarfile(text, nil), text+": not an archive")
	unimported(t, s, tarfile("-", strings.NewReader("")), "standard input: not an archive")
	cut := put("cut", sample(t)[:30000])
	unimported(t, s, tarfile(cut, nil), cut+": truncated archive: unexpected EOF")
	up := put("up", archiveOf(t, withFile("../x", "y")...))
	unimported(t, s, tarfile(up, nil), up+": ../x: the name leads out of the archive's root")

	good := put("good", sample(t))
	for path, stdin := range map[string]io.Reader{good: nil, "": bytes.NewReader(sample(t)), "-": bytes.NewReader(sample(t))} {
		id, err := Tarfile(s, path, stdin, io.Discard)
		imported(t, s, id, err)
	}
	root := member(tar.TypeDir, "./") // a root that nobody may write to
	root.Mode = 0o555
	if id, err := Tarfile(s, "-", bytes.NewReader(archiveOf(t, root)), io.Discard); err != nil {
		t.Error(err)
	} else if layers, err := s.Layers(id); err != nil || lstat(t, layers[0].Path).Mode != unix.S_IFDIR|0o555 {
		t.Error(err)
	}
}

func TestURL(t *testing.T) {
	impatient(t, time.Second)
	data := compress(t, compressors["gzip"], sample(t))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/good.tar.gz":
			w.Write(data)
		case "/encoded": // what the server calls an encoding is the file's own
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(data)
		case "/moved":
			http.Redirect(w, r, "/good.tar.gz", http.StatusFound)
		case "/broken":
			w.Header().Set("Content-Length", fmt.Sprint(len(data)+1))
			w.Write(data)
		case "/chunked":
			w.Write(data[:len(data)/2])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case "/text":
			w.Write([]byte("hello"))
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	s := newStore(t)
	bad := func(address, want string) {
		t.Helper()
		_, err := URL(s, address, io.Discard)
		unimported(t, s, err, want)
	}
	u := server.URL
	bad(u+"/none", u+"/none: 404 Not Found")
	bad(u+"/text", u+"/text: not an archive")
	bad(u+"/broken", fmt.Sprintf("%s/broken: the transfer broke off after %d of %d bytes", u, len(data), len(data)+1))
	bad(u+"/chunked", fmt.Sprintf("%s/chunked: the transfer broke off after %d bytes", u, len(data)/2))
	bad("ftp://host/x", `ftp://host/x: unknown scheme "ftp": http, https and file are known`)
	bad("host/x.tar", "host/x.tar: not a URL: it begins with http://, https:// or file://")
	bad("http://a b/", `"http://a b/": invalid character " " in host name`)
	bad("http://127.0.0.1:1/x", "http://127.0.0.1:1/x: Connection refused")
	bad("file:///none.tar", "file:///none.tar: No such file or directory")
	bad("file://host/x.tar", "file://host/x.tar: a file of another host: write file:///PATH")

	for _, path := range []string{"/good.tar.gz", "/encoded", "/moved"} {
		id, err := URL(s, u+path, io.Discard)
		imported(t, s, id, err)
	}
	path := filepath.Join(t.TempDir(), "with blank")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	id, err := URL(s, "file://"+strings.ReplaceAll(path, " ", "%20"), io.Discard)
	imported(t, s, id, err)
	if m, err := s.Meta(id); err != nil || !strings.HasPrefix(m.Made, "pull:url file:///") {
		t.Errorf("made %q, %v", m.Made, err)
	}
}

func TestHost(t *testing.T) {
	s := newStore(t)
	id, err := Host(s)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := s.Layers(id)
	if err != nil || len(layers) == 0 || layers[0].Path != "/" || !layers[0].Live {
		t.Errorf("%+v, %v", layers, err)
	}
}
