package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Two archives are made by root, from Debian's packages: a minimal Debian, and
// what a C compiler, Python and others add to it.
func (c config) debian() string { return filepath.Join(c.Dir, "debian.tar") }
func (c config) devel() string  { return filepath.Join(c.Dir, "devel.tar") }

// makeDebian makes an archive of a minimal Debian.
func makeDebian(archive string) error {
	dir := archive + ".d"
	defer os.RemoveAll(dir)
	return script(`
		debootstrap --variant=minbase bookworm "$1"
		tar -C "$1" --numeric-owner --xattrs --exclude='./dev/*' -cf "$2" .`, dir, archive)
}

// packages that apt installs as a row: they are downloaded before.
const packages = "git vim"

// makeDevel makes an archive of the layer on top of the minimal Debian.
func makeDevel(debian string) func(archive string) error {
	return func(archive string) error {
		dir := archive + ".d"
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		return script(`
			mount --make-rprivate /
			mount -t tmpfs tmpfs "$1"
			cd "$1"
			mkdir lower upper work mnt
			tar -C lower -xf "$3"
			mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay mnt
			mount --rbind /dev mnt/dev
			mount -t proc proc mnt/proc
			cp /etc/resolv.conf mnt/etc/resolv.conf
			export DEBIAN_FRONTEND=noninteractive
			chroot mnt apt-get update
			chroot mnt apt-get install -y --no-install-recommends gcc libc6-dev make python3 sqlite3
			chroot mnt apt-get clean
			chroot mnt apt-get install -y --no-install-recommends --download-only `+packages+`
			tar -C upper --numeric-owner --xattrs -cf "$2" .`, dir, archive, debian)
	}
}

// script runs shell code that may take long and may need the network, in a
// mount namespace of its own.
func script(code string, args ...string) error {
	argv := append([]string{"-m", "sh", "-ec", code, "sh"}, args...)
	out, err := exec.Command("unshare", argv...).CombinedOutput()
	if err != nil {
		lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
		return fmt.Errorf("%w: %s", err, lines[len(lines)-1])
	}
	return nil
}

// Numbers of the programs that are built.
const (
	cFiles   = 60
	goImport = "encoding/json" // with what it needs, about 50 packages
)

// makeDistro makes three layers: the minimal Debian, what compilers and others
// add, and sources in C.
func (a *agent) makeDistro(dir string) error {
	for i, archive := range []string{a.debian(), a.devel()} {
		layer := fmt.Sprintf("%s/%d", dir, i)
		if err := os.MkdirAll(layer, 0o755); err != nil {
			return err
		}
		if err := run("", "tar", "-C", layer, "--numeric-owner", "--xattrs", "-xf", archive); err != nil {
			return err
		}
	}
	src := dir + "/2/src"
	if err := os.MkdirAll(src, 0o755); err != nil {
		return err
	}
	for n := range cFiles {
		if err := os.WriteFile(fmt.Sprintf("%s/part%d.c", src, n), []byte(strings.ReplaceAll(cSource, "@", fmt.Sprint(n))), 0o644); err != nil {
			return err
		}
	}
	return errors.Join(
		os.WriteFile(src+"/main.c", []byte("int part0(char **);\nint main(int argc, char **argv) { return part0(argv); }\n"), 0o644),
		os.WriteFile(src+"/Makefile", []byte("prog: $(patsubst %.c,%.o,$(wildcard *.c))\n\t$(CC) -o $@ $^\n"), 0o644),
		os.WriteFile(dir+"/2/imports.py", []byte(pythonImports), 0o644))
}

const cSource = `#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <pthread.h>

int part@(char **argv)
{
	struct stat st;
	if (stat(argv[0], &st) || !strchr(argv[0], '/'))
		return errno;
	return printf("%d %ld\n", getpid(), (long)st.st_size) < 0;
}
`

const pythonImports = `import argparse, asyncio, concurrent.futures, configparser, csv, ctypes, datetime, decimal
import difflib, email.mime.multipart, fractions, ftplib, gzip, hashlib, html.parser, http.server
import imaplib, importlib.metadata, json, logging.handlers, lzma, mailbox, multiprocessing, optparse
import pathlib, pdb, pickle, platform, plistlib, pydoc, queue, random, shelve, smtplib, sqlite3, ssl
import statistics, subprocess, tarfile, tempfile, tomllib, typing, unittest.mock
`

// makeGo makes two layers: the Go toolchain of this machine, and a program.
func (a *agent) makeGo(dir string) error {
	root := dir + "/0/go"
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"VERSION", "bin", "pkg", "src"} {
		if err := run("", "cp", "-rL", "--", filepath.Join(a.GoRoot, name), root); err != nil {
			return err
		}
	}
	main := "package main\n\nimport (\n\t\"fmt\"\n\t\"" + goImport + "\"\n)\n\nfunc main() { text, err := json.Marshal(1); fmt.Println(text, err) }\n"
	if err := os.MkdirAll(dir+"/1/prog", 0o755); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(dir+"/1/prog/main.go", []byte(main), 0o644),
		os.WriteFile(dir+"/1/prog/go.mod", []byte("module prog\n"), 0o644))
}
