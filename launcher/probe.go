package launcher

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/internal/passwd"
	"plash/union"
)

// A Finding is one thing that this place allows, or does not.
type Finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"` // why not, or what is to be known
}

// Containers is the name of the finding that says whether a container runs.
const Containers = "containers"

// Probe finds out what this place allows, by doing it. dir is an empty
// directory on the file system of the data directory, and is left empty.
func Probe(dir string) []Finding {
	p := &prober{dir: dir}
	p.device()
	p.userNamespace()
	p.container()
	p.hostMount()
	p.add("signatures", func() (string, error) {
		if _, err := exec.LookPath("gpgv"); err != nil {
			return "", errors.New("gpgv: command not found (package gpgv): pull:lxc cannot check what PLASH_LXC_KEYRING asks for")
		}
		return "gpgv is there for pull:lxc", nil
	})
	return p.findings
}

type prober struct {
	dir      string
	findings []Finding
}

// add adds what probe has found.
func (p *prober) add(name string, probe func() (detail string, err error)) {
	f := Finding{Name: name}
	if detail, err := probe(); err != nil {
		f.Detail = err.Error()
	} else {
		f.OK, f.Detail = true, detail
	}
	p.findings = append(p.findings, f)
}

func (p *prober) device() {
	p.add("fuse device", func() (string, error) {
		dev, err := openDevice()
		if err != nil {
			return "", err
		}
		return "/dev/fuse", unix.Close(dev)
	})
}

// userNamespace probes the namespace that a run by this user makes, and in it
// what the data directory's file system takes.
func (p *prober) userNamespace() {
	var said []string
	c := &Config{View: Userspace, Verbose: func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }}
	var inside []Finding
	id, err := c.identify()
	if err == nil {
		inside, err = p.insideNamespace(c, id)
	}
	p.add("user namespace", func() (string, error) {
		if err == nil && !id.mapped() {
			return "not needed: root", nil
		}
		return "", err
	})
	if id.own {
		p.add("subordinate ids", func() (string, error) {
			if err == nil && len(said) > 0 && !strings.HasPrefix(said[0], "a user namespace") {
				return "", errors.New(said[0])
			}
			return fmt.Sprintf("%d user ids, %d group ids", count(id.uids), count(id.gids)), err
		})
	}
	p.findings = append(p.findings, inside...)
}

func count(ranges []passwd.Range) (n int) {
	for _, r := range ranges {
		n += r.Count
	}
	return n
}

// insideNamespace starts stageProbe and returns what it found.
func (p *prober) insideNamespace(c *Config, id identity) ([]Finding, error) {
	j, err := c.job(id)
	if err != nil {
		return nil, err
	}
	said, err := newPipe()
	if err != nil {
		return nil, err
	}
	j.Dir, j.Tell = p.dir, said.w
	pid, err := j.start(stageProbe, id, c, &syscall.SysProcAttr{}, nil, j.Tell)
	said.closeWrite()
	if err != nil {
		said.closeRead()
		return nil, err
	}
	var findings []Finding
	var l listener
	l.listen(said.r, func(_ byte, text string) {
		name, detail, _ := strings.Cut(text, "\t")
		ok, detail, _ := strings.Cut(detail, "\t")
		findings = append(findings, Finding{name, ok == "ok", detail})
	})
	unix.Wait4(pid, nil, 0, nil)
	<-l.done
	return findings, nil
}

// probeInside is the stage that tries what a container's file system needs of
// the directory below it.
func probeInside(j *job) {
	for _, probe := range []struct {
		name string
		try  func(dir string) (string, error)
	}{
		{"attributes", tryAttributes},
		{"device whiteouts", tryDevice},
		{"shared blocks", tryClone},
	} {
		ok := "ok"
		detail, err := probe.try(j.Dir)
		if err != nil {
			ok, detail = "no", err.Error()
		}
		tell(j.Tell, wordNote, probe.name+"\t"+ok+"\t"+detail)
	}
	os.Exit(0)
}

func tryAttributes(dir string) (string, error) {
	if err := unix.Setxattr(dir, "user.overlay.plash", []byte("y"), 0); err != nil {
		return "", fmt.Errorf("user.*: %s: replaced directories cannot be told from merged ones", errs.Text(err))
	}
	return "user.*", unix.Removexattr(dir, "user.overlay.plash")
}

func tryDevice(dir string) (string, error) {
	path := filepath.Join(dir, "device")
	if err := unix.Mknod(path, unix.S_IFCHR|0o600, 0); err != nil {
		return "", fmt.Errorf("mknod: %s: whiteouts are written as files", errs.Text(err))
	}
	return "", os.Remove(path)
}

func tryClone(dir string) (string, error) {
	a, err := os.CreateTemp(dir, "a")
	if err != nil {
		return "", err
	}
	defer os.Remove(a.Name())
	defer a.Close()
	b, err := os.CreateTemp(dir, "b")
	if err != nil {
		return "", err
	}
	defer os.Remove(b.Name())
	defer b.Close()
	if err := unix.IoctlFileClone(int(b.Fd()), int(a.Fd())); err != nil {
		return "", fmt.Errorf("reflink: %s: a changed file of a lower layer is copied whole", errs.Text(err))
	}
	return "copies of files take no space until they are changed", nil
}

// container runs a program in a container: this one, on an empty image.
func (p *prober) container() {
	p.add(Containers, func() (string, error) {
		lower, mountpoint := filepath.Join(p.dir, "layer"), filepath.Join(p.dir, "mnt")
		for _, dir := range []string{lower, mountpoint} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return "", err
			}
			defer os.Remove(dir)
		}
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			return "", err
		}
		defer null.Close()
		status, err := Run(Config{
			Layers:     []union.Layer{{Path: lower}},
			Mountpoint: mountpoint,
			// There as on the host, as /proc is bound: it knows this name.
			Command: []string{"/proc/self/exe", "version"},
			Build:   true, // Run returns when all has ended
			stdout:  null,
		})
		if err == nil && status != (Status{}) {
			err = fmt.Errorf("a program ended with %v", status)
		}
		return "plash run", err
	})
}

// hostMount mounts an image for all programs to see, and unmounts it.
func (p *prober) hostMount() {
	p.add("mounts", func() (string, error) {
		lower, at := filepath.Join(p.dir, "layer"), filepath.Join(p.dir, "mnt")
		for _, dir := range []string{lower, at} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return "", err
			}
			defer os.Remove(dir)
		}
		if err := MountHost(Config{Layers: []union.Layer{{Path: lower}}}, at, func() {}); err != nil {
			return "", err
		}
		return "plash mount", Unmount(at)
	})
}
