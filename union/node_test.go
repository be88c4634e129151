package union

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"
)

// TestNodeMemory: what a file takes that was listed and looked up, and what more
// when it is edited.
func TestNodeMemory(t *testing.T) {
	if size := unsafe.Sizeof(Node{}); size > 96 {
		t.Errorf("a node takes %d bytes", size)
	}
	const files = 10000
	dir := t.TempDir()
	write(t, dir, "d/")
	for i := range files {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("d/file%06d", i)))
		check(t, err)
		f.Close()
	}
	u, _ := open(t, Layer{Path: dir})
	u.volatile = true
	u.fds.max.Store(100)
	d := walk(t, u, "d")
	names, nodes := make([]string, 0, files+2), make([]*Node, 0, files)
	start := heap()
	look := func(name string) {
		n, err := u.Lookup(d, name)
		check(t, err)
		nodes = append(nodes, n)
	}
	const first = 200 // these while they are listed, as for READDIRPLUS
	check(t, u.ReadDirAt(d, 0, func(e Dirent, cookie uint64) bool {
		if cookie > firstCookie && cookie <= firstCookie+first {
			look(e.Name)
		}
		names = append(names, e.Name)
		return true
	}))
	d.LookedUp(firstCookie + first)
	for _, name := range names[2+first:] {
		look(string([]byte(name)))
	}
	looked := heap()
	if per := (looked - start) / files; len(nodes) != files || per > 150 {
		t.Errorf("%d files looked up take %d bytes each", len(nodes), per)
	}
	mode := uint32(0o600)
	for _, n := range nodes {
		check(t, u.Setattr(n, SetAttr{Mode: &mode}))
	}
	if per := (heap() - looked) / files; per > 15 {
		t.Errorf("an edited file takes %d bytes more", per)
	}
	runtime.KeepAlive(names)
}

// heap returns how many bytes are in use.
func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what had finalizers, too
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
