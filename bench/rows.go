package main

import (
	"fmt"
	"os"
)

// A row is what is measured: a program that runs at the root of a mount. Its
// target is how many times as long as in the kernel's it may take, for root and
// for a user; 0 demands only to be faster than fuse-overlayfs.
type row struct {
	name   string
	target [2]float64
	than   string   // the target is not to the kernel, but to plash in this row
	bytes  int      // the server may grow by so much for each item
	items  int      // files or operations: requests are given for each of them
	cold   bool     // all caches are dropped before
	before []string // program that runs before, and is not measured
	argv   []string
}

// A group is rows that are done one after the other in one mount of the layers
// of a set.
type group struct {
	name   string
	set    string
	quick  bool   // part of a quick look
	rounds int    // not more than these, if not 0: it takes long
	chroot bool   // the rows run programs in the mount, with it as their root
	spared string // the contender that would take minutes for a row
	rows   []row
}

func both(n float64) [2]float64 { return [2]float64{n, n} }

// sh is shell code that stops at the first failure.
func sh(code string) []string { return []string{"sh", "-ec", code} }

// self is this program, for rows that consist of system calls: see work.go.
func self(words ...string) []string { return append([]string{os.Args[0], "work"}, words...) }

const (
	readAll = "find . -type f -exec cat {} + >/dev/null"
	grepAll = `grep -r "no such text" . || test $? = 1`
)

var groups = []group{
	{name: "find", set: "tree", quick: true, rows: []row{
		{name: "find, cold", target: both(1.4), items: treeFiles, cold: true, argv: sh("find . -ls >/dev/null")},
		{name: "find, warm", target: both(1.1), items: treeFiles, argv: sh("find . -ls >/dev/null")},
	}},
	{name: "read", set: "tree", quick: true, rows: []row{
		{name: "read all, cold", target: both(1.5), items: treeFiles, cold: true, argv: sh(readAll)},
		{name: "read all, warm", target: both(1.0), items: treeFiles,
			before: sh(readAll), argv: sh(readAll)},
	}},
	{name: "grep", set: "tree", quick: true, rows: []row{
		{name: "grep, first pass", items: treeFiles, argv: sh(grepAll)},
		{name: "grep, second pass", target: both(2.0), items: treeFiles, argv: sh(grepAll)},
		{name: "grep, third pass", target: both(1.0), items: treeFiles, argv: sh(grepAll)},
	}},
	{name: "names", set: "tree", quick: true, rows: []row{
		{name: "missing names, first", items: 20000, argv: self("missing", "1")},
		{name: "missing names, repeated", target: both(1.1), items: 200000, argv: self("missing", "10")},
		{name: "stat, first", items: 10000, argv: self("stat", "1")},
		{name: "stat, repeated", items: 100000, argv: self("stat", "10")},
		{name: "statx that asks the server", items: 50000, argv: self("ask", "50000")},
		{name: "open and close, repeated", items: 50000,
			before: self("open", "1"), argv: self("open", "5")},
		{name: "open, read 4 KiB, close, repeated", items: 50000,
			before: self("open-read", "2"), argv: self("open-read", "5")},
	}},
	{name: "big", set: "big", quick: true, rows: []row{
		{name: "big file, cold", target: both(1.2), items: 1, cold: true, argv: sh("cat big >/dev/null")},
		{name: "big file, warm", target: both(1.2), items: 1,
			before: sh("cat big >/dev/null"), argv: sh("cat big >/dev/null")},
		{name: "random reads, warm", items: 100000, argv: self("pread", "big", "100000")},
		{name: "random reads, cold", items: 2000, cold: true, argv: self("pread", "big", "2000")},
	}},
	{name: "write", set: "tree", quick: true, rows: []row{
		{name: "512-byte writes", target: both(1.1), items: 200000, argv: self("write", "a", "512", "200000")},
		{name: "4 KiB writes", target: both(1.1), items: 50000, argv: self("write", "b", "4096", "50000")},
		{name: "big write", items: 1, argv: self("write", "c", "1048576", "256")},
		{name: "big write with fsync", target: [2]float64{1.1, 1.6}, items: 1, argv: self("write-sync", "d", "1048576", "256")},
		{name: "write over it again", items: 1, argv: self("overwrite", "d", "1048576", "256")},
		{name: "random 4 KiB writes", items: 20000, argv: self("pwrite", "d", "20000")},
		{name: "mmap writes", items: 1, argv: self("mmap", "e", "67108864")},
	}},
	{name: "untar", set: "tree", quick: true, rows: []row{
		{name: "untar 10,000 files", target: both(4), items: archiveFiles, argv: sh(`mkdir new; tar -C new -xf "$ARCHIVE"`)},
		{name: "rm -rf, upper", target: both(4), items: archiveFiles, argv: sh("rm -rf new")},
	}},
	{name: "rm", set: "tree", quick: true, rows: []row{
		{name: "rm -rf, lower", target: both(3), items: treeFiles, argv: sh("rm -rf d*")},
	}},
	{name: "chmod", set: "tree", quick: true, rows: []row{
		{name: "copy-up by chmod", target: both(1.2), items: treeFiles, argv: sh("chmod -R o-r .")},
	}},
	{name: "append", set: "tree", quick: true, rows: []row{
		{name: "copy-up by append", target: both(1.2), items: 10000, argv: self("append")},
	}},
	{name: "first byte", set: "big", rows: []row{
		{name: "copy-up by first byte of a big file", items: 1,
			before: sh("cat big >/dev/null"), argv: self("first-byte", "big")},
	}},
	{name: "rename", set: "tree", quick: true, rows: []row{
		{name: "renames", target: both(3.5), items: 5000,
			before: self("create", "new", "5000"), argv: self("rename", "new", "5000")},
		{name: "renames of lower files", target: both(3.5), items: 10000, argv: self("rename-lower")},
	}},
	{name: "create", set: "tree", rows: []row{
		{name: "create empty files", items: 5000, argv: self("create", "new", "5000")},
		{name: "unlink them", items: 5000, argv: self("unlink", "new", "5000")},
		{name: "mkdir", items: 2000, argv: self("mkdir", "2000")},
	}},
	{name: "git", set: "git", quick: true, rows: []row{
		{name: "git status, first", items: gitFiles, argv: sh("git -C repo status")},
		{name: "git status", target: both(1.2), items: gitFiles, argv: sh("git -C repo status")},
		// git reads files again that are as old as its index, in seconds: the same ones
		// of every contender, all, if the clone is made within one.
		{name: "git clone", items: gitFiles, before: self("second"), argv: sh("git clone -q --no-local repo clone")},
		{name: "git status of the clone", target: both(1.2), items: gitFiles, argv: sh("git -C clone status")},
	}},
	{name: "C build", set: "distro", chroot: true, rows: []row{
		{name: "C build", target: both(1.1), items: cFiles, argv: inside("make -s -j2 -C /src")},
		{name: "C build, nothing to do", items: cFiles, argv: inside("make -s -j2 -C /src")},
	}},
	{name: "python", set: "distro", chroot: true, rows: []row{
		{name: "Python imports, cold", items: 1, cold: true, argv: inside("python3 /imports.py")},
		{name: "Python imports", target: both(1.1), items: 5, argv: inside("for i in 1 2 3 4 5; do python3 /imports.py; done")},
	}},
	{name: "apt", set: "distro", chroot: true, rows: []row{
		{name: "apt install", target: both(1.3), items: 1,
			argv: inside("apt-get install -qq -y --no-install-recommends --no-download " + packages + " >/dev/null 2>&1")},
	}},
	{name: "sqlite", set: "distro", chroot: true, rows: []row{
		{name: "SQLite transactions, rollback journal", items: 2000, argv: inside(sqlite("DELETE"))},
		{name: "SQLite transactions, write-ahead log", items: 2000, argv: inside(sqlite("WAL"))},
	}},
	{name: "go", set: "go", rows: []row{
		{name: "Go build", target: both(1.05), items: 1, argv: sh(goBuild)},
		{name: "Go build, nothing to do", items: 1, argv: sh(goBuild)},
	}},
	clients(1), clients(2), clients(4), clients(8),
	layerCount(1), layerCount(10), layerCount(100), layerCount(500),
	{name: "wide", set: "wide", rounds: 3, rows: []row{
		{name: "list 1 name, a thousand times", items: 1000, argv: self("list", "one", "1000")},
		{name: "list 100,000 names, first", items: 100_000, argv: self("list", "hundred-thousand", "1")},
		{name: "list 100,000 names, again", items: 100_000, argv: self("list", "hundred-thousand", "1")},
		{name: "list 100,000 with attributes", items: 100_000, argv: sh("ls -lU hundred-thousand >/dev/null")},
		{name: "create one among 100,000", items: 1, argv: sh(": >hundred-thousand/new")},
	}},
	{name: "million", set: "wide", rounds: 1, rows: []row{
		{name: "stat of 1,000,000 files", bytes: 150, items: 1_000_000, argv: self("stat-all", "million", "1000000")},
		{name: "list 1,000,000 names", items: 1_000_000, argv: self("list", "million", "1")},
		{name: "find -ls of 1,000,000 files", items: 1_000_000, argv: sh("find million -ls >/dev/null")},
	}},
}

// inside is shell code that runs with the mount as its root.
func inside(code string) []string {
	return []string{"env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "DEBIAN_FRONTEND=noninteractive",
		"chroot", ".", "sh", "-ec", code}
}

// sqlite is shell code for two thousand transactions.
func sqlite(journal string) string {
	return `{ echo "PRAGMA journal_mode=` + journal + `; CREATE TABLE t (n INTEGER PRIMARY KEY, text);"
		for i in $(seq 2000); do echo "INSERT INTO t VALUES ($i, 'some text');"; done; } | sqlite3 /` + journal + `.db >/dev/null`
}

// goBuild uses nothing but what lies in the mount.
const goBuild = `cd prog; env -i PATH="$PATH" HOME=/ GOROOT="$PWD/../go" GOCACHE="$PWD/../cache" GOTOOLCHAIN=local CGO_ENABLED=0 ../go/bin/go build -o ../out .`

// plural is "1 layer", "2 layers".
func plural(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprint(n, " ", thing)
}

// clients is a row of n processes that do the same in directories of their own.
func clients(n int) group {
	name := plural(n, "client")
	code := `for i in $(seq ` + fmt.Sprint(n) + `); do "$BENCH" work client $i & all="$all $!"; done; for pid in $all; do wait $pid; done`
	return group{name: name, set: "tree", rows: []row{{name: name, items: n * clientOps, argv: sh(code)}}}
}

// layerCount are rows over the same files in n layers.
func layerCount(n int) group {
	name := func(n int, what string) string { return plural(n, "layer") + ": " + what }
	g := group{name: plural(n, "layer"), set: fmt.Sprintf("layers-%d", n)}
	if n >= 100 {
		g.spared = unionfs // with 100 layers 227 s a round of look-ups
	}
	for _, r := range []row{
		{name: "lookups, cold", items: 2 * manyFiles, cold: true, argv: self("look", "1")},
		{name: "lookups, warm", items: 20 * manyFiles, argv: self("look", "10")},
		{name: "listings, cold", items: manyFiles, cold: true, argv: sh("find . >/dev/null")},
		{name: "listings, warm", items: 10 * manyFiles, argv: sh("for i in 1 2 3 4 5 6 7 8 9 10; do find . >/dev/null; done")},
	} {
		if n == 500 {
			r.target, r.than = both(1.1), name(1, r.name)
		}
		r.name = name(n, r.name)
		g.rows = append(g.rows, r)
	}
	return g
}
