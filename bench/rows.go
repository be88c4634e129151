package main

import "os"

// A row is what is measured: a program that runs at the root of a mount. Its
// target is how many times as long as in the kernel's it may take, for root and
// for a user; 0 demands only to be faster than fuse-overlayfs.
type row struct {
	name   string
	target [2]float64
	items  int      // files or operations: requests are given for each of them
	cold   bool     // all caches are dropped before
	before []string // program that runs before, and is not measured
	argv   []string
}

// A group is rows that are done one after the other in one mount of the layers
// of a set.
type group struct {
	name  string
	set   string
	quick bool // part of a quick look
	rows  []row
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
	{"find", "tree", true, []row{
		{"find, cold", both(1.4), treeFiles, true, nil, sh("find . -ls >/dev/null")},
		{"find, warm", both(1.1), treeFiles, false, nil, sh("find . -ls >/dev/null")},
	}},
	{"read", "tree", true, []row{
		{"read all, cold", both(1.5), treeFiles, true, nil, sh(readAll)},
		{"read all, warm", both(1.0), treeFiles, false, sh(readAll), sh(readAll)},
	}},
	{"grep", "tree", true, []row{
		{"grep, first pass", both(0), treeFiles, false, nil, sh(grepAll)},
		{"grep, second pass", both(2.0), treeFiles, false, nil, sh(grepAll)},
		{"grep, third pass", both(1.0), treeFiles, false, nil, sh(grepAll)},
	}},
	{"names", "tree", true, []row{
		{"missing names, first", both(0), 20000, false, nil, self("missing", "1")},
		{"missing names, repeated", both(1.1), 200000, false, nil, self("missing", "10")},
		{"stat, first", both(0), 10000, false, nil, self("stat", "1")},
		{"stat, repeated", both(0), 100000, false, nil, self("stat", "10")},
		{"open and close, repeated", both(0), 50000, false, self("open", "1"), self("open", "5")},
		{"open, read 4 KiB, close, repeated", both(0), 50000, false, self("open-read", "2"), self("open-read", "5")},
	}},
	{"big", "big", true, []row{
		{"big file, cold", both(1.2), 1, true, nil, sh("cat big >/dev/null")},
		{"big file, warm", both(1.2), 1, false, sh("cat big >/dev/null"), sh("cat big >/dev/null")},
		{"random reads, warm", both(0), 100000, false, nil, self("pread", "big", "100000")},
		{"random reads, cold", both(0), 2000, true, nil, self("pread", "big", "2000")},
	}},
	{"write", "tree", true, []row{
		{"512-byte writes", both(1.1), 200000, false, nil, self("write", "a", "512", "200000")},
		{"4 KiB writes", both(1.1), 50000, false, nil, self("write", "b", "4096", "50000")},
		{"big write", both(0), 1, false, nil, self("write", "c", "1048576", "256")},
		{"big write with fsync", [2]float64{1.1, 1.6}, 1, false, nil, self("write-sync", "d", "1048576", "256")},
		{"write over it again", both(0), 1, false, nil, self("overwrite", "d", "1048576", "256")},
		{"random 4 KiB writes", both(0), 20000, false, nil, self("pwrite", "d", "20000")},
		{"mmap writes", both(0), 1, false, nil, self("mmap", "e", "67108864")},
	}},
	{"untar", "tree", true, []row{
		{"untar 10,000 files", both(4), archiveFiles, false, nil, sh(`mkdir new; tar -C new -xf "$ARCHIVE"`)},
		{"rm -rf, upper", both(4), archiveFiles, false, nil, sh("rm -rf new")},
	}},
	{"rm", "tree", true, []row{
		{"rm -rf, lower", both(3), treeFiles, false, nil, sh("rm -rf d*")},
	}},
	{"chmod", "tree", true, []row{
		{"copy-up by chmod", both(1.2), treeFiles, false, nil, sh("chmod -R o-r .")},
	}},
	{"append", "tree", true, []row{
		{"copy-up by append", both(1.2), 10000, false, nil, self("append")},
	}},
	{"first byte", "big", false, []row{
		{"copy-up by first byte of a big file", both(0), 1, false, sh("cat big >/dev/null"), self("first-byte", "big")},
	}},
	{"rename", "tree", true, []row{
		{"renames", both(3.5), 5000, false, self("create", "new", "5000"), self("rename", "new", "5000")},
		{"renames of lower files", both(3.5), 10000, false, nil, self("rename-lower")},
	}},
	{"create", "tree", false, []row{
		{"create empty files", both(0), 5000, false, nil, self("create", "new", "5000")},
		{"unlink them", both(0), 5000, false, nil, self("unlink", "new", "5000")},
		{"mkdir", both(0), 2000, false, nil, self("mkdir", "2000")},
	}},
	{"git", "git", true, []row{
		{"git status, first", both(0), gitFiles, false, nil, sh("git -C repo status")},
		{"git status", both(1.2), gitFiles, false, nil, sh("git -C repo status")},
		{"git clone", both(0), gitFiles, false, nil, sh("git clone -q --no-local repo clone")},
		{"git status of the clone", both(1.2), gitFiles, false, nil, sh("git -C clone status")},
	}},
}
