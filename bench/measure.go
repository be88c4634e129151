package main

import (
	"context"
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
// When ctx ends, what was measured until then is returned.
func measure(ctx context.Context, c config) (results, error) {
	if err := prepare(&c); err != nil {
		return results{}, err
	}
	if err := c.prepareArchives(); err != nil {
		return results{}, err
	}
	res := newResults(c)
	err := runAgent(ctx, c, res.add)
	if err == nil && !c.Trace {
		err = measureCommands(ctx, c, res.add)
	}
	res.summarize()
	return res, err
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
	all := contenders(a.config)
	for _, g := range groups {
		list := slices.DeleteFunc(slices.Clone(all), func(c contender) bool { return c.name == g.spared })
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
	before, dropped := usage(), cacheDrops()
	begin := time.Now()
	own, err := runTimed(m.target, r.argv...)
	s.Seconds, s.Own = time.Since(begin).Seconds(), own.Seconds()
	after := usage()
	if cacheDrops() != dropped {
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

// cacheDrops returns how often caches were dropped, as /proc/vmstat says it.
func cacheDrops() string {
	text, _ := os.ReadFile("/proc/vmstat")
	return fmt.Sprint(drops.FindAllString(string(text), -1))
}

var drops = regexp.MustCompile(`(?m)^drop_(pagecache|slab) .*$`)

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
