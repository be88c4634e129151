// Package passwd reads the user database, passwd(5), and the tables of
// subordinate ids, subuid(5) and subgid(5), from their files alone: no name
// service is asked, as a static program cannot.
package passwd

import (
	"os"
	"strconv"
	"strings"
)

// An Entry is one user's line of passwd(5).
type Entry struct {
	Name        string
	UID, GID    int
	Home, Shell string
}

// ByUID returns the first user with that id in file, and whether there is one.
func ByUID(file string, uid int) (Entry, bool) {
	for line := range lines(file) {
		f := strings.Split(line, ":")
		if len(f) != 7 {
			continue
		}
		u, err1 := strconv.Atoi(f[2])
		g, err2 := strconv.Atoi(f[3])
		if err1 == nil && err2 == nil && u == uid {
			return Entry{Name: f[0], UID: u, GID: g, Home: f[5], Shell: f[6]}, true
		}
	}
	return Entry{}, false
}

// A Range is Count consecutive ids from Start up.
type Range struct{ Start, Count int }

// Subordinate returns the ranges that file (subuid(5) or subgid(5)) gives to
// the user of that name or id, in the file's order.
func Subordinate(file, name string, uid int) []Range {
	var ranges []Range
	for line := range lines(file) {
		f := strings.Split(line, ":")
		if len(f) != 3 || f[0] == "" || f[0] != name && f[0] != strconv.Itoa(uid) {
			continue
		}
		start, err1 := strconv.Atoi(f[1])
		count, err2 := strconv.Atoi(f[2])
		if err1 == nil && err2 == nil && start > 0 && count > 0 {
			ranges = append(ranges, Range{start, count})
		}
	}
	return ranges
}

// lines yields file's lines without blanks around them and without comments;
// none if it cannot be read.
func lines(file string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		text, err := os.ReadFile(file)
		if err != nil {
			return
		}
		for line := range strings.SplitSeq(string(text), "\n") {
			line = strings.TrimSpace(line)
			if line != "" && line[0] != '#' && !yield(line) {
				return
			}
		}
	}
}
