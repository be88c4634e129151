package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A command is a row without a mount: the whole of a plash command beside what
// does the same on an unpacked tree.
type command struct {
	name   string
	target [2]float64 // times the other's time
	times  int        // in each round: short ones are repeated
	other  string     // what it is compared with
	quick  bool
	argv   func(b *bed, other bool, n int) []string
	// The other's is done by root also if a user is measured.
	otherRoot bool
}

// A bed is what the commands work with.
type bed struct {
	config
	archive string // a Debian
	tree    string // unpacked
	id      string // as an image
	out     string // directory for what is made
}

var commands = []command{
	{"run ID true", [2]float64{1.5, 2.0}, 20, "bwrap", true, func(b *bed, other bool, _ int) []string {
		if !other {
			return []string{b.Plash, "run", b.id, "true"}
		}
		argv := []string{"bwrap"}
		if b.User != "" {
			argv = append(argv, "--unshare-user", "--uid", "0")
		}
		return append(argv, "--bind", b.tree, "/", "--dev", "/dev", "--proc", "/proc", "sh", "-lc", "true")
	}, false},
	{"pull:tarfile", both(0.9), 1, "tar -x", false, func(b *bed, other bool, n int) []string {
		if !other {
			return sh(fmt.Sprintf("%s pull:tarfile %s; sync -f %s", b.Plash, b.archive, b.out))
		}
		dir := filepath.Join(b.out, "tree"+strconv.Itoa(n))
		return sh(fmt.Sprintf("mkdir %s; tar -C %[1]s --numeric-owner --xattrs -xf %s; sync -f %[1]s", dir, b.archive))
	}, true},
	{"push:tarfile", both(1.2), 1, "tar -c", false, func(b *bed, other bool, _ int) []string {
		// GNU tar reads no files if it writes to /dev/null itself.
		if !other {
			return sh(fmt.Sprintf("%s push:tarfile %s | cat >/dev/null", b.Plash, b.id))
		}
		return sh(fmt.Sprintf("tar -C %s --xattrs -c . | cat >/dev/null", b.tree))
	}, true},
}

// commandGroup is the group that a command counts as.
func commandGroup(c command) group { return group{name: "commands", quick: c.quick} }

// measureCommands measures those that are wanted, until ctx ends; the samples go
// to keep.
func measureCommands(ctx context.Context, c config, keep func(sample)) error {
	var b *bed
	for _, cmd := range commands {
		if !c.wants(commandGroup(cmd), row{name: cmd.name}) {
			continue
		}
		if b == nil {
			var err error
			if b, err = makeBed(c); err != nil {
				return err
			}
		}
		for round := range c.Rounds + 1 { // the first one is thrown away
			for i := range 2 {
				other := (round+i)%2 == 0
				for n := range cmd.times {
					s := sample{Row: cmd.name, Contender: ours, Round: round}
					if other {
						s.Contender = cmd.other
					}
					if cmd.times == 1 {
						unix.Sync()
					}
					begin := time.Now()
					err := b.run(cmd.argv(b, other, round*cmd.times+n), c.User != "" && !(other && cmd.otherRoot))
					s.Seconds = time.Since(begin).Seconds()
					if ctx.Err() != nil {
						return ctx.Err()
					}
					if err != nil {
						s.Error = err.Error()
						fmt.Fprintf(os.Stderr, "%s, %s: %v\n", cmd.name, s.Contender, err)
					}
					if round > 0 {
						keep(s)
					}
				}
			}
		}
		fmt.Fprintf(os.Stderr, "%s done\n", cmd.name)
	}
	return nil
}

// makeBed makes the image and the tree.
func makeBed(c config) (*bed, error) {
	b := &bed{config: c, archive: c.debian()}
	var err error
	if b.out, err = os.MkdirTemp(c.own(), "commands-"); err != nil {
		return nil, err
	}
	if c.User != "" {
		uid, gid, _ := lookUser(c.User)
		os.Chown(b.out, uid, gid)
	}
	os.Chmod(b.out, 0o755)
	b.tree = filepath.Join(b.out, "tree")
	if err := run("", sh(fmt.Sprintf("mkdir %s; tar -C %[1]s --numeric-owner --xattrs -xf %s", b.tree, b.archive))...); err != nil {
		return nil, err
	}
	id, err := b.start([]string{c.Plash, "pull:tarfile", b.archive}, c.User != "").Output()
	if err != nil {
		return nil, fmt.Errorf("pull:tarfile: %w", err)
	}
	b.id = strings.TrimSpace(string(id))
	return b, nil
}

// start prepares a command in which plash has its data in the bed.
func (b *bed) start(argv []string, asUser bool) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(b.Dir, "home"), "PLASH_DATA=" + filepath.Join(b.out, "data")}
	if asUser {
		uid, gid, _ := lookUser(b.User)
		cmd.Env = append(cmd.Env, "USER="+b.User)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	return cmd
}

func (b *bed) run(argv []string, asUser bool) error {
	out, err := b.start(argv, asUser).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
