package launcher

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/internal/passwd"
	"plash/internal/procs"
)

// identity says as whom a program runs.
type identity struct {
	bare bool // no namespaces at all: PLASH_NO_UNSHARE
	same bool // a user namespace in which every id is what it was
	own  bool // a user namespace whose root is the caller
	// subordinate ids for 1 and up in it; none: it has root alone
	uids, gids []passwd.Range
}

// mapped reports whether there is a user namespace to be made.
func (id identity) mapped() bool { return id.same || id.own }

func noUnshare() bool { return os.Getenv("PLASH_NO_UNSHARE") != "" }

// Unprivileged reports whether the caller is an ordinary user, who becomes
// userspace root, owner of the files of his subordinate ids, by Reenter only.
func Unprivileged() bool { return os.Geteuid() != 0 && !noUnshare() }

// identify finds out who the caller is and what he needs.
func (c *Config) identify() (identity, error) {
	switch {
	case c.same:
		return identity{}, nil
	case noUnshare():
		if os.Geteuid() != 0 && c.View != Userspace {
			return identity{}, errors.New("PLASH_NO_UNSHARE: without namespaces only root can run containers; unset it")
		}
		c.say("no namespaces: PLASH_NO_UNSHARE is set")
		return identity{bare: true}, nil
	case os.Geteuid() != 0:
		return c.subordinate(), nil
	case procs.HasSysAdmin():
		c.say("root here: no user namespace")
		return identity{}, nil
	default:
		// A container's root that may not mount: in a user namespace it may.
		c.say("root without CAP_SYS_ADMIN: a user namespace with the same ids")
		return identity{same: true}, nil
	}
}

func (c *Config) subordinate() identity {
	uid := os.Getuid()
	// newuidmap compares with the name service; what cannot be found in the
	// file may still be right in the environment, and is checked there.
	name := os.Getenv("USER")
	if user, ok := passwd.ByUID("/etc/passwd", uid); ok {
		name = user.Name
	}
	id := identity{own: true}
	id.uids = passwd.Subordinate("/etc/subuid", name, uid)
	id.gids = passwd.Subordinate("/etc/subgid", name, uid)
	if len(id.uids) == 0 || len(id.gids) == 0 {
		c.say("no subordinate ids in /etc/subuid and /etc/subgid: root is the only user inside, and chown to others fails")
		id.uids, id.gids = nil, nil
	}
	return id
}

// mapIDs maps the ids of the user namespace of process pid.
func (id identity) mapIDs(pid int, c *Config) error {
	proc := "/proc/" + strconv.Itoa(pid)
	switch {
	case !id.mapped():
		return nil
	case id.same:
		const all = "0 0 4294967295\n"
		err := writeFile(proc+"/uid_map", all)
		if err == nil {
			err = writeFile(proc+"/gid_map", all)
		}
		if err != nil {
			return fmt.Errorf("user namespace: ids cannot be mapped: %s", errs.Text(err))
		}
		return nil
	}
	haveUIDs, haveGIDs := false, false
	if len(id.uids) > 0 {
		uidmap := startMapper("newuidmap", pid, os.Getuid(), id.uids)
		gidmap := startMapper("newgidmap", pid, os.Getgid(), id.gids)
		for _, m := range []*mapper{uidmap, gidmap} {
			if err := m.wait(); err != nil {
				c.say("%v: root is the only user inside, and chown to others fails", err)
			} else if m == uidmap {
				haveUIDs = true
			} else {
				haveGIDs = true
			}
		}
		if haveUIDs && haveGIDs {
			c.say("a user namespace with subordinate ids")
		}
	}
	var err error
	if !haveUIDs {
		err = writeFile(proc+"/uid_map", fmt.Sprintf("0 %d 1\n", os.Getuid()))
	}
	if err == nil && !haveGIDs {
		// Kernels before 3.19 have no such file and need none.
		err = writeFile(proc+"/setgroups", "deny")
		if err == nil || errors.Is(err, os.ErrNotExist) {
			err = writeFile(proc+"/gid_map", fmt.Sprintf("0 %d 1\n", os.Getgid()))
		}
	}
	if err != nil {
		return fmt.Errorf("user namespace: ids cannot be mapped: %s", errs.Text(err))
	}
	return nil
}

// writeFile writes text at once, as the files of ids demand.
func writeFile(path, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(text))
	return err
}

// A mapper is newuidmap(1) or newgidmap(1) at work.
type mapper struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
	err    error
}

func startMapper(name string, pid, own int, ranges []passwd.Range) *mapper {
	args := []string{strconv.Itoa(pid), "0", strconv.Itoa(own), "1"}
	next := 1
	for _, r := range ranges {
		args = append(args, strconv.Itoa(next), strconv.Itoa(r.Start), strconv.Itoa(r.Count))
		next += r.Count
	}
	m := &mapper{cmd: exec.Command(name, args...)}
	m.cmd.Stderr = &m.stderr
	m.err = m.cmd.Start()
	return m
}

func (m *mapper) wait() error {
	if m.err == nil {
		m.err = m.cmd.Wait()
	}
	switch {
	case m.err == nil:
		return nil
	case errors.Is(m.err, exec.ErrNotFound):
		return fmt.Errorf("%s is not installed (package uidmap or shadow-utils)", m.cmd.Args[0])
	case m.stderr.Len() > 0:
		return errors.New(strings.TrimSpace(m.stderr.String()))
	}
	return fmt.Errorf("%s: %s", m.cmd.Args[0], errs.Text(m.err))
}
