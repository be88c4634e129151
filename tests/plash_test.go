package tests

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A result is what a command left: what it printed, and how it ended.
type result struct {
	t        *testing.T
	words    []string
	out, err string
	state    *os.ProcessState
}

// run runs a command with an empty standard input and waits for it.
func run(t *testing.T, words ...string) result {
	t.Helper()
	return runWith(t, nil, words...)
}

// runWith is run with something to read.
func runWith(t *testing.T, stdin io.Reader, words ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	// A server that held the pipes would let $(plash …) wait for it.
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); errors.Is(err, exec.ErrWaitDelay) {
		t.Errorf("%q: has ended, but something still holds its output", words)
	} else if cmd.ProcessState == nil {
		t.Fatalf("%q: %v", words, err)
	}
	return result{t, words, out.String(), errs.String(), cmd.ProcessState}
}

// plash runs plash.
func plash(t *testing.T, words ...string) result {
	t.Helper()
	return run(t, append([]string{"plash"}, words...)...)
}

func (r result) fatal(want string) {
	r.t.Helper()
	r.t.Fatalf("%q: want %s\n%v\nstdout: %s\nstderr: %s", r.words, want, r.state, r.out, r.err)
}

// ok demands success and returns standard output without its last line break.
func (r result) ok() string {
	r.t.Helper()
	if !r.state.Success() {
		r.fatal("success")
	}
	return strings.TrimSuffix(r.out, "\n")
}

// id demands success and an id, alone, on standard output.
func (r result) id() string {
	r.t.Helper()
	if id := r.ok(); regexp.MustCompile(`^[1-9][0-9]*$`).MatchString(id) && r.out == id+"\n" {
		return id
	}
	r.fatal("an id alone on standard output")
	return ""
}

// prints demands success and exactly this on standard output.
func (r result) prints(want string) {
	r.t.Helper()
	if r.ok() != want {
		r.fatal("to print " + want)
	}
}

// code demands an exit code.
func (r result) code(want int) result {
	r.t.Helper()
	if r.state.ExitCode() != want {
		r.fatal("exit code " + strconv.Itoa(want))
	}
	return r
}

// fails demands exit code 1, nothing on standard output and one line on
// standard error, which begins with "plash error: " and matches pattern.
func (r result) fails(pattern string) {
	r.t.Helper()
	r.code(1)
	line, ok := strings.CutPrefix(strings.TrimSuffix(r.err, "\n"), "plash error: ")
	if !ok || r.out != "" || strings.Contains(line, "\n") || !regexp.MustCompile(pattern).MatchString(line) {
		r.fatal("one line of error that matches " + pattern)
	}
}

// needTiny imports the tiny root file system and returns its id.
func needTiny(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat(tiny); err != nil {
		t.Skip("no static busybox on this machine: tests/setup.sh installs it")
	}
	return plash(t, "pull:tarfile", tiny).id()
}

// writable returns a new empty directory of this test.
func writable(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dir-")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// images returns the images that the data directory's index leads to. A link that leads
// nowhere is of one that was not to be.
func images(t *testing.T) []string {
	t.Helper()
	index := filepath.Join(os.Getenv("PLASH_DATA"), "index")
	return slices.DeleteFunc(names(t, index), func(name string) bool {
		_, err := os.Stat(filepath.Join(index, name))
		return err != nil
	})
}

// names lists a directory; one that does not exist is empty.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// noTemps demands that the data directory's tmp/ gets empty, within a moment:
// the server removes what it used after the program has ended.
func noTemps(t *testing.T) {
	t.Helper()
	eventually(t, "the temporary directory is empty", func() bool {
		return len(names(t, filepath.Join(os.Getenv("PLASH_DATA"), "tmp"))) == 0
	})
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after 10 seconds it is still not so that %s", what)
		}
	}
}
