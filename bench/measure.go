package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A sample is what one row took once.
type sample struct {
	Row, Contender string
	Round          int // 0 is not timed: there the requests are counted
	Seconds        float64
	CPU            float64        // seconds, of the server
	Own            float64        // of the programs themselves
	Resident       int64          // bytes, of the server afterwards
	Grown          int64          // by which Resident grew
	Requests       map[string]int // by opcode
	Error          string
}

// measure measures all rows of the config: first those in a mount by the
// agent, then whole commands.
func measure(c config) (results, error) {
	if err := prepare(&c); err != nil {
		return results{}, err
	}
	if err := c.prepareArchives(); err != nil {
		return results{}, err
	}
	res := newResults(c)
	err := runAgent(c, res.add)
	if err == nil && !c.Trace {
		err = measureCommands(c, res.add)
	}
	res.summarize()
	return res, err
}

// prepare copies the programs to where an ordinary user may run them too, and
// makes the directories that are his.
func prepare(c *config) error {
	if err := os.MkdirAll(filepath.Join(c.Dir, "bin"), 0o755); err != nil {
		return err
	}
	if err := os.Chmod(c.Dir, 0o755); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for name, path := range map[string]*string{"plash": &c.Plash, "fuse-overlayfs2": &c.Fuse2, "bench": &self} {
		if *path == "" {
			continue
		}
		copied := filepath.Join(c.Dir, "bin", name)
		if err := run("", "cp", "--remove-destination", "--", *path, copied); err != nil {
			return err
		}
		*path = copied
	}
	uid, gid := 0, 0
	if c.User != "" {
		if uid, gid, err = lookUser(c.User); err != nil {
			return err
		}
	}
	for _, name := range []string{c.own(), filepath.Join(c.Dir, "home")} {
		if err := os.MkdirAll(name, 0o755); err != nil {
			return err
		}
		if err := os.Chown(name, uid, gid); err != nil {
			return err
		}
	}
	return nil
}

// prepareArchives makes the archives that wanted rows need, unless they are there.
func (c config) prepareArchives() error {
	debian, devel := false, false
	for _, cmd := range commands {
		debian = debian || c.wants(commandGroup(cmd), row{name: cmd.name})
	}
	for _, g := range groups {
		devel = devel || g.set == "distro" && slices.ContainsFunc(g.rows, func(r row) bool { return c.wants(g, r) })
	}
	if debian || devel {
		if err := once(c.debian(), makeDebian); err != nil {
			return fmt.Errorf("%s: %w", c.debian(), err)
		}
	}
	if devel {
		if err := once(c.devel(), makeDevel(c.debian())); err != nil {
			return fmt.Errorf("%s: %w", c.devel(), err)
		}
	}
	return nil
}

// own is the directory for the layers of this kind of user: they own them.
func (c config) own() string {
	if c.User != "" {
		return filepath.Join(c.Dir, "user")
	}
	return filepath.Join(c.Dir, "root")
}

// wants reports whether the row is to be measured.
func (c config) wants(g group, r row) bool {
	if c.Quick && !g.quick {
		return false
	}
	return c.Only == "" || regexp.MustCompile(c.Only).MatchString(g.name+": "+r.name)
}

// measure measures the rows that are done in a mount.
func (a *agent) measure() error {
	if err := a.furnish(); err != nil {
		return err
	}
	list := contenders(a.config)
	for _, g := range groups {
		last := -1 // row that is wanted
		for i, r := range g.rows {
			if a.wants(g, r) {
				last = i
			}
		}
		if last < 0 {
			continue
		}
		g.rows = g.rows[:last+1]
		l, err := a.layers(g.set)
		if err != nil {
			return fmt.Errorf("layers %s: %w", g.set, err)
		}
		first, rounds := 0, a.Rounds
		if a.Trace {
			rounds = 0
		} else if a.Quick || g.rounds == 1 {
			first = 1
		}
		if g.rounds > 0 {
			rounds = min(rounds, g.rounds)
		}
		for round := first; round <= rounds; round++ {
			for i := range list {
				c := list[(round+i)%len(list)]
				if err := a.once(c, g, l, round); err != nil {
					return fmt.Errorf("%s, %s: %w", g.name, c.name, err)
				}
			}
		}
		fmt.Fprintf(os.Stderr, "%s done\n", g.name)
	}
	return nil
}

// once mounts the layers for the contender and measures each row of the group.
func (a *agent) once(c contender, g group, l layers, round int) error {
	place := filepath.Join(a.own(), "mount")
	if err := os.MkdirAll(place, 0o755); err != nil {
		return err
	}
	m, err := c.mountFresh(place, l)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s cannot mount: %v\n", g.name, c.name, err)
		return nil
	}
	if g.chroot {
		if err := run(m.target, sh("mount --rbind /dev dev; mount -t proc proc proc")...); err != nil {
			return err
		}
	}
	for _, r := range g.rows {
		s := sample{Row: r.name, Contender: c.name, Round: round}
		err := a.row(r, m, &s)
		if err != nil {
			s.Error = err.Error()
			fmt.Fprintf(os.Stderr, "%s, %s: %v\n", r.name, c.name, err)
		}
		if !a.wants(g, r) {
			continue
		}
		if _, err := a.ask(request{Sample: &s}); err != nil {
			return err
		}
	}
	if g.chroot {
		if err := run(m.target, "umount", "-l", "dev", "proc"); err != nil {
			return err
		}
	}
	if err := m.end(); err != nil {
		fmt.Fprintf(os.Stderr, "%s, %s: %v\n", g.name, c.name, err)
	}
	return nil
}

// row does one row and fills in s.
func (a *agent) row(r row, m mounted, s *sample) error {
	if r.before != nil {
		if err := run(m.target, r.before...); err != nil {
			return fmt.Errorf("before: %w", err)
		}
	}
	if r.cold {
		if err := errors.Join(m.sync(), a.dropCaches()); err != nil {
			return err
		}
		// The program itself is to be in memory: it does not lie in the mount.
		run(filepath.Join(a.own(), "empty"), r.argv...)
	} else {
		// Or what was written before would still be written.
		if err := m.sync(); err != nil {
			return err
		}
	}
	if s.Round == 0 {
		if err := a.traceBegin(m); err != nil {
			return err
		}
	}
	before, drops := usage(), cacheDrops()
	begin := time.Now()
	own, err := runTimed(m.target, r.argv...)
	s.Seconds, s.Own = time.Since(begin).Seconds(), own.Seconds()
	after := usage()
	if cacheDrops() != drops {
		fmt.Fprintf(os.Stderr, "%s, %s: something else dropped the caches meanwhile\n", r.name, s.Contender)
	}
	s.CPU, s.Resident, s.Grown = after.cpu-before.cpu, after.resident, after.resident-before.resident
	if s.Round == 0 {
		requests, countErr := a.ask(request{Count: true})
		s.Requests = requests
		err = errors.Join(err, countErr)
	}
	return err
}

// sync writes what the kernel has collected for the mount.
func (m mounted) sync() error {
	fd, err := unix.Open(m.target, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Syncfs(fd)
}

// traceBegin begins to count the requests of the mount.
func (a *agent) traceBegin(m mounted) error {
	var st unix.Stat_t
	if err := unix.Stat(m.target, &st); err != nil {
		return err
	}
	minor := unix.Minor(st.Dev)
	_, err := a.ask(request{Trace: &minor})
	return err
}

// cacheDrops returns the line of /proc/vmstat that counts them.
func cacheDrops() string {
	text, _ := os.ReadFile("/proc/vmstat")
	_, rest, _ := strings.Cut(string(text), "drop_pagecache ")
	line, _, _ := strings.Cut(rest, "\n")
	return line
}

// servers returns the processes beside this one: the contender's.
func servers() []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// PID (NAME) STATE: the first process inherits zombies, and lets them be.
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if i := strings.LastIndex(string(stat), ") "); err == nil && i > 0 && stat[i+2] != 'Z' {
			pids = append(pids, pid)
		}
	}
	return pids
}

// A use is what the servers have used: CPU time in seconds, memory in bytes.
type use struct {
	cpu      float64
	resident int64
}

func usage() (u use) {
	for _, pid := range servers() {
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		tasks, _ := filepath.Glob(dir + "/task/*/schedstat")
		for _, name := range tasks {
			var ns float64 // on a CPU; two more fields follow
			text, _ := os.ReadFile(name)
			fmt.Sscan(string(text), &ns)
			u.cpu += ns / 1e9
		}
		var size, resident int64 // pages
		text, _ := os.ReadFile(dir + "/statm")
		fmt.Sscan(string(text), &size, &resident)
		u.resident += resident * int64(os.Getpagesize())
	}
	return u
}
