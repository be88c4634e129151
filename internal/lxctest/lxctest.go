// Package lxctest is an LXC image server for tests, laid out as that of the
// LXC project.
package lxctest

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Paths of the server's indexes.
const (
	Index  = "/streams/v1/index.json"
	Images = "/streams/v1/images.json"
	Older  = "/meta/1.0/index-system"
)

// A Server serves files, the indexes among them.
type Server struct {
	URL string

	mu       sync.Mutex
	files    map[string][]byte
	requests map[string]int
	trouble  func(path string, n int, w http.ResponseWriter, file []byte) bool
	products map[string]product
	lines    []string
}

type product struct {
	Aliases  string             `json:"aliases"`
	Arch     string             `json:"arch"`
	OS       string             `json:"os"`
	Release  string             `json:"release"`
	Title    string             `json:"release_title"`
	Variant  string             `json:"variant"`
	Versions map[string]version `json:"versions"`
}

type version struct {
	Items map[string]item `json:"items"`
}

type item struct {
	Type   string `json:"ftype"`
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
	Size   int    `json:"size"`
}

// New starts a server without images; it ends with the test.
func New(t testing.TB) *Server {
	s := &Server{files: map[string][]byte{}, requests: map[string]int{}, products: map[string]product{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.URL = server.URL
	s.writeIndexes()
	return s
}

// Add adds an image, called distro:release:arch:variant in the index, that was
// built at a time such as 20240929_23:08, and returns its archive's path. An
// alias is another name of its release.
func (s *Server) Add(name, built string, archive []byte, aliases ...string) string {
	words := strings.Split(name, ":")
	dir := "images/" + strings.Join(words, "/") + "/" + built + "/"
	path := dir + "rootfs.tar.xz"
	hash := fmt.Sprintf("%x", sha256.Sum256(archive))
	s.Set("/"+path, archive)
	s.Set("/"+dir+"SHA256SUMS", fmt.Appendf(nil, "%064d  meta.tar.xz\n%s  rootfs.tar.xz\n", 0, hash))
	p, ok := s.products[name]
	if !ok {
		names := []string{words[0] + "/" + words[1] + "/" + words[3], words[0] + "/" + words[1]}
		for _, alias := range aliases {
			names = append(names, words[0]+"/"+alias)
		}
		p = product{Aliases: strings.Join(names, ","), Arch: words[2], OS: strings.ToUpper(words[0]),
			Release: words[1], Title: words[1], Variant: words[3], Versions: map[string]version{}}
		s.products[name] = p
	}
	p.Versions[built] = version{map[string]item{
		"incus.tar.xz":  {"incus.tar.xz", dir + "incus.tar.xz", strings.Repeat("0", 64), 100},
		"root.squashfs": {"squashfs", dir + "rootfs.squashfs", strings.Repeat("1", 64), 200},
		"root.tar.xz":   {"root.tar.xz", path, hash, len(archive)},
	}}
	s.lines = append(s.lines, strings.Join(append(words, built, "/"+dir), ";")+"\n")
	s.writeIndexes()
	return "/" + path
}

func (s *Server) writeIndexes() {
	write := func(path string, v any) {
		data, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		s.Set(path, append(data, '\n'))
	}
	write(Index, map[string]any{"format": "index:1.0", "index": map[string]any{"images": map[string]any{
		"datatype": "image-downloads", "format": "products:1.0", "path": Images[1:],
		"products": slices.Sorted(maps.Keys(s.products)),
	}}})
	write(Images, map[string]any{"content_id": "images", "datatype": "image-downloads", "format": "products:1.0",
		"products": s.products})
	s.Set(Older, []byte(strings.Join(s.lines, "")))
}

// Set makes data the file at path; nil removes it.
func (s *Server) Set(path string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if data == nil {
		delete(s.files, path)
	} else {
		s.files[path] = data
	}
}

// Files returns what the server has.
func (s *Server) Files() map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.files)
}

// Trouble lets f answer the n-th request, counted from 1, for a path with a
// file; where it returns false the server does.
func (s *Server) Trouble(f func(path string, n int, w http.ResponseWriter, file []byte) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble, s.requests = f, map[string]int{}
}

// Requests returns how many requests there were for each path since the last
// Trouble.
func (s *Server) Requests() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.requests)
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	s.mu.Lock()
	s.requests[path]++
	n, trouble := s.requests[path], s.trouble
	file, ok := s.files[path]
	s.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
	} else if trouble == nil || !trouble(path, n, w, file) {
		w.Write(file)
	}
}
