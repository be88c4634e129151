package launcher

import (
	"slices"
	"strings"

	"plash/internal/passwd"
)

// envRules say how a container's environment differs from the usual.
type envRules struct {
	Set      []string // NAME=VALUE
	Names    []string // of the host, to pass
	Prefixes []string
	Build    bool
	DataDir  string
}

// passing are the host's variables that pass into every container.
var passing = []string{"TERM", "HOME", "DISPLAY", "XAUTHORITY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR"}

const (
	usualPath  = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	hostPrefix = "_HOST_"
)

// passes reports whether the host's variable of that name passes under its own
// name; export is the host's PLASH_EXPORT.
func (r *envRules) passes(name, export string) bool {
	if slices.Contains(passing, name) || slices.Contains(r.Names, name) {
		return true
	}
	for _, prefix := range r.Prefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return !r.Build && slices.Contains(strings.Split(export, ":"), name)
}

// environment returns a container's environment, sorted: the host's as r says,
// and what its root user is by default.
func (r *envRules) environment(host []string, root passwd.Entry) []string {
	env := map[string]string{
		"PATH":    usualPath,
		"HOME":    root.Home,
		"USER":    root.Name,
		"LOGNAME": root.Name,
		"SHELL":   root.Shell,
	}
	if r.Build {
		env["PIP_BREAK_SYSTEM_PACKAGES"] = "1"
		env["DEBIAN_FRONTEND"] = "noninteractive"
	}
	export := ""
	for _, entry := range host {
		if value, ok := strings.CutPrefix(entry, "PLASH_EXPORT="); ok {
			export = value
		}
	}
	renamed := map[string]string{}
	for _, entry := range host {
		name, value, ok := strings.Cut(entry, "=")
		switch {
		case !ok || name == "" || name == "HOME" && value == "":
		case r.passes(name, export) || strings.HasPrefix(name, hostPrefix):
			env[name] = value
		default:
			renamed[hostPrefix+name] = value
		}
	}
	for name, value := range renamed {
		// One that had the prefix already is the outermost host's.
		if _, ok := env[name]; !ok {
			env[name] = value
		}
	}
	for _, entry := range r.Set {
		if name, value, ok := strings.Cut(entry, "="); ok {
			env[name] = value
		}
	}
	if r.DataDir != "" {
		env["PLASH_DATA"] = r.DataDir
	}
	var list []string
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list
}
