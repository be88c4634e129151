// Package launcher runs programs: in a container, whose root is a merged image
// or a plain directory, on the host with an image mounted beside it, or as
// userspace root without any image. It also mounts images for others to see.
//
// One run has up to three processes. The caller of Run waits, forwards signals
// and mirrors how the program stops and ends. The server, this same program
// executed anew in a new user namespace where one is needed, serves the image
// over FUSE. It stays in the mount namespace in which it started, where the
// mount does not exist; but first one of its threads makes a mount namespace,
// puts the root together there and executes the program. That is the container,
// a child of the caller. The server ends when the last process that sees the
// mount has ended. Without an image, the new process becomes the program itself.
// Init makes processes what they are.
package launcher

import (
	"os"
	"runtime"
	"syscall"

	"plash/internal/procs"
	"plash/store"
	"plash/union"
)

// View is what the program sees.
type View int

const (
	Container View = iota // the image as its root, with the run environment
	Host                  // the host's root, and the image as working directory
	Userspace             // the host's root and no image
)

// A Bind is a file or directory of the host shown in a container.
type Bind struct {
	Src, Dst string // no Dst: it is where Src is
	ReadOnly bool
}

// Config says what to run and on what.
type Config struct {
	// Layers, topmost first, are merged to the root. Dir is instead a plain
	// directory as root.
	Layers []union.Layer
	Dir    string
	// Changes is the changes directory; data/ and work/ in it are made where
	// they are missing. Empty: the image cannot be written.
	Changes string
	// Temp, if set, is the directory that Changes lies in or is. The server
	// keeps it locked, and removes it at its end unless Keep is set.
	Temp *store.Temp
	Keep bool
	// Mountpoint is an existing directory to mount the image on.
	Mountpoint string

	View View
	// Build says that this run makes a layer: the environment is that of
	// builds, the host's /tmp is not bound, and when Run returns no process of
	// the container is left and Changes is complete.
	Build bool

	Binds          []Bind // besides the default ones
	NoDefaultBinds bool
	// Workdir is where in the container the program starts; it must be there.
	// Empty: where the caller is, if that is there, else "/".
	Workdir string

	// Command is the program and its arguments. If it is empty, Entrypoint and
	// DefaultArgs are, and if these are empty too, a login shell.
	Command, Entrypoint, DefaultArgs []string

	// Env holds NAME=VALUE that go before everything else. EnvNames and
	// EnvPrefixes name variables of the host that pass into the container.
	Env, EnvNames, EnvPrefixes []string
	// DataDir is the data directory in use, for the container's PLASH_DATA.
	DataDir string

	// Verbose, if set, is told what was chosen and why.
	Verbose func(format string, args ...any)

	last          bool     // this process ends with the run
	same          bool     // no namespace whoever calls: see Again
	stdin, stdout *os.File // if not this process's own
}

func (c *Config) say(format string, args ...any) {
	if c.Verbose != nil {
		c.Verbose(format, args...)
	}
}

// merged reports whether there is an image to be mounted.
func (c *Config) merged() bool {
	return c.View != Userspace && c.Dir == "" && (len(c.Layers) > 0 || c.Changes != "")
}

// Status is how a program ended: with an exit code, or killed by a signal.
type Status struct {
	Code   int
	Signal syscall.Signal // 0: it exited
}

// Exit ends this process the same way. Where the signal does not end it, as
// with process 1, its exit code is 128 and the signal's number.
func (s Status) Exit() {
	if s.Signal != 0 {
		runtime.LockOSThread()
		procs.Raise(s.Signal)
		os.Exit(128 + int(s.Signal))
	}
	os.Exit(s.Code)
}

// Run runs a program and returns how it ended. A program that is not there has
// ended with code 127 and one that cannot be executed with 126, after a line
// on standard error. An error is one of the launcher itself: nothing ran, or
// the file system server died.
//
// Unless Build is set, processes that the program left behind go on, with
// their root, after Run has returned.
func Run(c Config) (Status, error) {
	if c.merged() {
		return c.run(stageServer)
	}
	return c.run(stageContainer)
}

// Become is Run, and ends this process as the program ended. So it returns only
// errors.
func Become(c Config) error {
	c.last = true
	status, err := Run(c)
	if err == nil {
		status.Exit()
	}
	return err
}

// run runs a program that begins as stage s.
func (c *Config) run(s stage) (Status, error) {
	id, err := c.identify()
	var j *job
	if err == nil {
		j, err = c.job(id)
	}
	if err != nil {
		if c.Temp != nil && !c.Keep {
			c.Temp.Remove()
		}
		return Status{}, err
	}
	p := &parent{config: c, job: j, identity: id}
	return p.run(s)
}
