package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// works are the workloads that consist of a few kinds of system calls, done by
// this program itself: in the working directory, with numbers and names as
// arguments.
var works = map[string]func(args []string) error{
	"missing":   func(args []string) error { return repeat(args[0], missing) },
	"stat":      func(args []string) error { return repeat(args[0], func() error { return eachLower(stat) }) },
	"ask":       func(args []string) error { return repeat(args[0], ask) },
	"open":      func(args []string) error { return repeat(args[0], func() error { return eachLower(open) }) },
	"open-read": func(args []string) error { return repeat(args[0], func() error { return eachLower(openRead) }) },
	"append":    func([]string) error { return eachLower(appendByte) },
	"rename-lower": func([]string) error {
		return eachLower(func(name string) error { return os.Rename(name, name+"-new") })
	},
	"pread":      pread,
	"write":      func(args []string) error { return writeBlocks(os.O_CREATE|os.O_EXCL, false, args) },
	"write-sync": func(args []string) error { return writeBlocks(os.O_CREATE|os.O_EXCL, true, args) },
	"overwrite":  func(args []string) error { return writeBlocks(0, false, args) },
	"pwrite":     pwrite,
	"mmap":       mmap,
	"first-byte": firstByte,
	"create":     create,
	"rename":     rename,
	"unlink":     unlink,
	"mkdir":      mkdir,
	"list":       list,
	"stat-all":   statAll,
	"look":       func(args []string) error { return repeat(args[0], look) },
	"client":     client,
	"second":     second,
}

func work(name string, args []string) error {
	f := works[name]
	if f == nil {
		return fmt.Errorf("no such work: %s", name)
	}
	if err := f(args); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

func repeat(times string, f func() error) error {
	for range number(times) {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// eachLower does f to the same 10,000 files of the tree: none of those that
// an upper layer has removed.
func eachLower(f func(name string) error) error {
	for d := range treeDirs {
		for n := range 100 {
			if err := f(fmt.Sprintf("d%d/e%d/file%d", d%10, d, n+2)); err != nil {
				return err
			}
		}
	}
	return nil
}

// missing looks for 20,000 names that are not there.
func missing() error {
	var st unix.Stat_t
	for d := range treeDirs {
		for n := range 200 {
			name := fmt.Sprintf("d%d/e%d/missing%d", d%10, d, n)
			if err := unix.Lstat(name, &st); err != unix.ENOENT {
				return fmt.Errorf("%s is there: %v", name, err)
			}
		}
	}
	return nil
}

func stat(name string) error {
	var st unix.Stat_t
	return unix.Lstat(name, &st)
}

// ask is a stat that no cache may answer.
func ask() error {
	var st unix.Statx_t
	return unix.Statx(unix.AT_FDCWD, "d0/e0/file2", unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st)
}

func open(name string) error {
	fd, err := unix.Open(name, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

var block [4096]byte

func openRead(name string) error {
	fd, err := unix.Open(name, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	_, err = unix.Read(fd, block[:])
	return errors.Join(err, unix.Close(fd))
}

func appendByte(name string) error {
	fd, err := unix.Open(name, unix.O_WRONLY|unix.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte("+"))
	return errors.Join(err, unix.Close(fd))
}

// atRandom calls f with random multiples of 4096 below the file's size.
func atRandom(f *os.File, times int, do func(offset int64) error) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(3, 4))
	for range times {
		if err := do(random.Int64N(size/4096) * 4096); err != nil {
			return err
		}
	}
	return nil
}

// pread FILE TIMES
func pread(args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	return atRandom(f, number(args[1]), func(offset int64) error {
		_, err := f.ReadAt(block[:], offset)
		return err
	})
}

// pwrite FILE TIMES
func pwrite(args []string) error {
	f, err := os.OpenFile(args[0], os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = atRandom(f, number(args[1]), func(offset int64) error {
		_, err := f.WriteAt(block[:], offset)
		return err
	})
	return errors.Join(err, f.Close())
}

// writeBlocks FILE SIZE TIMES
func writeBlocks(flags int, sync bool, args []string) error {
	f, err := os.OpenFile(args[0], os.O_WRONLY|flags, 0o644)
	if err != nil {
		return err
	}
	data := text[:number(args[1])]
	for range number(args[2]) {
		if _, err := f.Write(data); err != nil {
			return err
		}
	}
	if sync {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// mmap FILE SIZE: writes a new file through a mapping
func mmap(args []string) error {
	f, err := os.OpenFile(args[0], os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	size := number(args[1])
	if err := f.Truncate(int64(size)); err != nil {
		return err
	}
	data, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	for len(data) > 0 {
		data = data[copy(data, text):]
	}
	return f.Sync()
}

func firstByte(args []string) error {
	f, err := os.OpenFile(args[0], os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte("+"), 0)
	return errors.Join(err, f.Close())
}

// create DIR COUNT: empty files
func create(args []string) error {
	if err := os.Mkdir(args[0], 0o755); err != nil {
		return err
	}
	for n := range number(args[1]) {
		fd, err := unix.Open(filepath.Join(args[0], strconv.Itoa(n)), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		unix.Close(fd)
	}
	return nil
}

// rename DIR COUNT: what create made
func rename(args []string) error {
	for n := range number(args[1]) {
		name := filepath.Join(args[0], strconv.Itoa(n))
		if err := unix.Rename(name, name+"-new"); err != nil {
			return err
		}
	}
	return nil
}

// unlink DIR COUNT: what create made
func unlink(args []string) error {
	for n := range number(args[1]) {
		if err := unix.Unlink(filepath.Join(args[0], strconv.Itoa(n))); err != nil {
			return err
		}
	}
	return nil
}

func mkdir(args []string) error {
	for n := range number(args[0]) {
		if err := unix.Mkdir("dir"+strconv.Itoa(n), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// list DIR TIMES: the names alone
func list(args []string) error {
	return repeat(args[1], func() error {
		fd, err := unix.Open(args[0], unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		buf := make([]byte, 32<<10)
		for {
			if n, err := unix.Getdents(fd, buf); n <= 0 {
				return err
			}
		}
	})
}

// statAll DIR COUNT: what makeWide made there
func statAll(args []string) error {
	for n := range number(args[1]) {
		if err := stat(fmt.Sprintf("%s/file%d", args[0], n)); err != nil {
			return err
		}
	}
	return nil
}

// look asks for each of the files that makeMany makes, and for as many missing.
func look() error {
	var st unix.Stat_t
	for n := range manyFiles {
		name := manyFile(n)
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		if err := unix.Lstat(name+"-missing", &st); err != unix.ENOENT {
			return fmt.Errorf("%s-missing is there: %v", name, err)
		}
	}
	return nil
}

// clientOps is how many files a client reads, looks for, and makes.
const clientOps = 1000

// client N works in directories that no other client uses: it reads lower
// files, looks for names, creates, writes, renames and removes.
func client(args []string) error {
	n := number(args[0])
	var st unix.Stat_t
	own := "client" + args[0]
	if err := unix.Mkdir(own, 0o755); err != nil {
		return err
	}
	for i := range clientOps {
		d := n*10 + i%10
		lower := fmt.Sprintf("d%d/e%d/", d%10, d)
		name := fmt.Sprintf("%s/file%d", own, i)
		if err := openRead(fmt.Sprintf("%sfile%d", lower, i/10+2)); err != nil {
			return err
		}
		if err := unix.Lstat(fmt.Sprintf("%smissing%d", lower, i), &st); err != unix.ENOENT {
			return fmt.Errorf("a missing name: %v", err)
		}
		if err := os.WriteFile(name, text[:4096], 0o644); err != nil {
			return err
		}
		if err := errors.Join(unix.Rename(name, name+"-new"), unix.Lstat(name+"-new", &st), unix.Unlink(name+"-new")); err != nil {
			return err
		}
	}
	return nil
}

// second waits until a second begins.
func second([]string) error {
	now := time.Now()
	time.Sleep(now.Truncate(time.Second).Add(time.Second).Sub(now))
	return nil
}
