package launcher

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
)

// The files read here only choose the words of a hint. What is possible was
// found out by trying it.

// inContainer reports whether this looks like a container of docker or podman.
func inContainer() bool {
	for _, file := range []string{"/.dockerenv", "/run/.containerenv"} {
		if unix.Access(file, unix.F_OK) == nil {
			return true
		}
	}
	return false
}

// setting returns a kernel setting, empty if there is none of that name.
func setting(name string) string {
	text, _ := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	return strings.TrimSpace(string(text))
}

// restricted returns the hint for a user namespace without any rights, as
// AppArmor makes them.
func restricted() string {
	const name = "kernel.apparmor_restrict_unprivileged_userns"
	if setting(name) == "1" {
		return " (try: sudo sysctl " + name + "=0)"
	}
	if inContainer() {
		return " (try: docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined)"
	}
	return ""
}

// hintUserNamespace words the refusal of a new user namespace.
func hintUserNamespace(err error) error {
	hint := restricted()
	switch {
	case setting("kernel.unprivileged_userns_clone") == "0":
		hint = " (try: sudo sysctl kernel.unprivileged_userns_clone=1)"
	case setting("user.max_user_namespaces") == "0":
		hint = " (try: sudo sysctl user.max_user_namespaces=10000)"
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EUSERS):
		hint = " (too many, or nested too deep; see sysctl user.max_user_namespaces)"
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS):
		hint = " (the kernel has none: CONFIG_USER_NS)"
	}
	return fmt.Errorf("user namespace: %s%s", errs.Text(err), hint)
}

// hintDevice words the refusal of /dev/fuse.
func hintDevice(err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.EACCES):
		hint = " (try: sudo chmod 666 /dev/fuse)"
	case inContainer():
		hint = " (try: docker run --device /dev/fuse)"
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		hint = " (try: sudo modprobe fuse)"
	}
	return fmt.Errorf("/dev/fuse: %s%s", errs.Text(err), hint)
}

// hintMount words the refusal of what in a mount namespace.
func hintMount(what string, err error) error {
	if errno := unix.Errno(0); errors.As(err, &errno) {
		err = errno
	}
	hint := ""
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		hint = restricted()
	}
	return fmt.Errorf("%s: %s%s", what, errs.Text(err), hint)
}
