package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"plash/internal/passwd"

	"golang.org/x/sys/unix"
)

// The measuring itself is done by an agent: this program once more, in
// namespaces of its own, as the first process of a PID namespace. So whatever happens, no mount
// and no server is left; and all processes beside it are a contender's server.
// What takes real root, it asks its parent for over a socket, in lines of JSON.

const agentEnv = "PLASH_BENCH_AGENT"

// A request is what the agent wants: one field is set.
type request struct {
	Drop   bool    `json:",omitempty"` // drop all clean caches
	Trace  *uint32 `json:",omitempty"` // count FUSE requests of this device's minor number from now on
	Count  bool    `json:",omitempty"` // the requests since then
	Sample *sample `json:",omitempty"` // keep this
}

type reply struct {
	Error    string         `json:",omitempty"`
	Requests map[string]int `json:",omitempty"`
}

// runAgent starts the agent as root or as the user, and does what it asks until
// it or ctx ends. The samples go to keep.
func runAgent(ctx context.Context, c config, keep func(sample)) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	own, its := os.NewFile(uintptr(pair[0]), "agent"), os.NewFile(uintptr(pair[1]), "agent")
	defer own.Close()
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(c.Dir, "bin", "bench"))
	cmd.Dir = c.Dir
	cmd.Env = append(os.Environ(), agentEnv+"="+string(text), "HOME="+filepath.Join(c.Dir, "home"))
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.ExtraFiles = []*os.File{its}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // an interrupt from the terminal is not for it
	}
	if c.User != "" {
		if err := asUser(cmd.SysProcAttr, c.User); err != nil {
			return err
		}
	}
	runtime.LockOSThread() // the death signal comes when the thread dies
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	its.Close()
	defer context.AfterFunc(ctx, func() { cmd.Process.Kill() })()
	err = errors.Join(serve(own, keep), cmd.Wait())
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// asUser lets the program be root of a user namespace of the user's.
func asUser(attr *syscall.SysProcAttr, name string) error {
	uid, gid, err := lookUser(name)
	if err != nil {
		return err
	}
	maps := func(file string, own int) []syscall.SysProcIDMap {
		list := []syscall.SysProcIDMap{{ContainerID: 0, HostID: own, Size: 1}}
		next := 1
		for _, r := range passwd.Subordinate(file, name, uid) {
			list = append(list, syscall.SysProcIDMap{ContainerID: next, HostID: r.Start, Size: r.Count})
			next += r.Count
		}
		return list
	}
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.UidMappings, attr.GidMappings = maps("/etc/subuid", uid), maps("/etc/subgid", gid)
	attr.GidMappingsEnableSetgroups = true
	attr.Credential = &syscall.Credential{}
	return nil
}

// lookUser finds the ids of a user.
func lookUser(name string) (uid, gid int, err error) {
	text, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Split(line, ":"); len(f) > 3 && f[0] == name {
			uid, _ = strconv.Atoi(f[2])
			gid, _ = strconv.Atoi(f[3])
			return uid, gid, nil
		}
	}
	return 0, 0, fmt.Errorf("no such user: %s", name)
}

// serve answers the agent's requests until it closes its end.
func serve(conn *os.File, keep func(sample)) error {
	in, out := json.NewDecoder(conn), json.NewEncoder(conn)
	var t tracer
	defer t.close()
	for {
		var req request
		if in.Decode(&req) != nil {
			return nil
		}
		var rep reply
		var err error
		switch {
		case req.Drop:
			err = os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
		case req.Trace != nil:
			err = t.begin(*req.Trace)
		case req.Count:
			rep.Requests, err = t.count()
		case req.Sample != nil:
			keep(*req.Sample)
		}
		if err != nil {
			rep.Error = err.Error()
		}
		if err := out.Encode(rep); err != nil {
			return err
		}
	}
}

// An agent is the other side.
type agent struct {
	config
	in  *json.Decoder
	out *json.Encoder
}

func agentMain(text string) error {
	os.Unsetenv(agentEnv)
	conn := os.NewFile(3, "parent")
	unix.CloseOnExec(3)
	a := agent{in: json.NewDecoder(conn), out: json.NewEncoder(conn)}
	if err := json.Unmarshal([]byte(text), &a.config); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("proc: %w", err)
	}
	return a.measure()
}

func (a *agent) ask(req request) (map[string]int, error) {
	if err := a.out.Encode(req); err != nil {
		return nil, err
	}
	var rep reply
	if err := a.in.Decode(&rep); err != nil {
		return nil, err
	}
	if rep.Error != "" {
		return nil, errors.New(rep.Error)
	}
	return rep.Requests, nil
}

// dropCaches empties the caches of all file systems.
func (a *agent) dropCaches() error {
	_, err := a.ask(request{Drop: true})
	return err
}
