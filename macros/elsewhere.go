package macros

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/kballard/go-shellquote"
	"golang.org/x/sys/unix"

	"plash/importers"
	"plash/internal/errs"
)

func evalFile(e *eval, args []string) error {
	text, err := os.ReadFile(args[0])
	if err != nil {
		return errs.Path(args[0], err)
	}
	return e.text(args[0], string(text))
}

func evalStdin(e *eval, _ []string) error {
	text, err := e.readStdin()
	if err != nil {
		return err
	}
	return e.text(stdinName, text)
}

func evalString(e *eval, args []string) error {
	words, err := shellquote.Split(args[0])
	if err != nil {
		return fmt.Errorf("%s: %s", args[0], strings.ToLower(err.Error()))
	}
	return e.words(words)
}

func evalURL(e *eval, args []string) error {
	text, err := importers.Text(args[0])
	if err != nil {
		return err
	}
	return e.text(args[0], string(text))
}

func evalGitHub(e *eval, args []string) error {
	name, text, err := readGitHub(args)
	if err != nil {
		return err
	}
	return e.text(name, text)
}

// readGitHub returns the address and text of a repository's file: args are
// USER/REPO and perhaps the file. It is that of the default branch, or, where
// a mirror does not know which that is, of master.
func readGitHub(args []string) (address, text string, err error) {
	user, repo, ok := strings.Cut(args[0], "/")
	if !ok || user == "" || repo == "" || strings.Contains(repo, "/") {
		return "", "", fmt.Errorf("%s: not a repository: USER/REPO is one", args[0])
	}
	server := os.Getenv("PLASH_GITHUB")
	if server == "" {
		server = "https://raw.githubusercontent.com"
	}
	file := "plashfile"
	if len(args) > 1 {
		file = args[1]
	}
	var first error
	for _, branch := range []string{"HEAD", "master"} {
		address = strings.TrimSuffix(server, "/") + "/" + args[0] + "/" + branch + "/" + strings.TrimPrefix(file, "/")
		data, err := importers.Text(address)
		if err == nil {
			return address, string(data), nil
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return "", "", first
}

// importPaths makes macros of executables: they get the arguments, and what
// they print is emitted.
func importPaths(e *eval, args []string) error {
	for _, path := range args {
		entries, err := os.ReadDir(path)
		if errors.Is(err, unix.ENOTDIR) {
			if err = unix.Access(path, unix.X_OK); err == nil {
				err = e.define(path)
			}
		}
		if err != nil {
			return errs.Path(path, err)
		}
		for _, entry := range entries {
			file := filepath.Join(path, entry.Name())
			info, err := os.Stat(file)
			if err != nil || !info.Mode().IsRegular() || unix.Access(file, unix.X_OK) != nil {
				continue // a file that is there for another purpose
			}
			if err := e.define(file); err != nil {
				return err
			}
		}
	}
	return nil
}

// define makes a macro of one executable.
func (e *eval) define(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	e.defined[filepath.Base(path)] = func(args []string) error {
		program := exec.Command(path, args...)
		program.Stderr = os.Stderr
		output, err := program.Output()
		if err != nil {
			return errs.Path(path, err)
		}
		return e.emitOutput(string(output))
	}
	return nil
}
