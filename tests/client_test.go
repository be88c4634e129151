package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// containerfile makes an image of layers that delete, replace and move what is
// in those below, from a root file system as needTiny's.
const containerfile = `FROM scratch
ADD busybox.tar /
RUN mkdir -p /a/b /a/d /tmp && echo one >/a/one && echo two >/a/b/two && echo x >/a/d/x && echo y >/a/d/y && ln /a/one /a/link
RUN rm /a/one && mv /a/b /a/c && echo three >/a/three && chown 5:6 /a/three && chmod u+s /a/three && rm /a/d/x
RUN rm -rf /a/c && mkdir /a/c && echo four >/a/c/four && echo more >>/a/link && mv /a/d /a/e
RUN grep -q 'fuse.plash' /proc/self/mountinfo
CMD ["/bin/sh", "-c", "cd /a; find . | sort; stat -c '%A %u:%g %n' three; cat c/four e/y link"]
`

// TestContainerTools: buildah and podman use plash, called fuse-overlayfs, for
// the layers of their images, as an ordinary user.
func TestContainerTools(t *testing.T) {
	each(t, []kind{ordinary}, 5*time.Minute, func(t *testing.T) {
		if _, err := exec.LookPath("buildah"); err != nil {
			t.Skip("no buildah on this machine: tests/setup.sh installs it")
		}
		if _, err := os.Stat(tiny); err != nil {
			t.Skip("no static busybox on this machine: tests/setup.sh installs it")
		}
		dir := containersHome(t)
		run(t, "buildah", "bud", "--isolation", "chroot", "--layers", "-t", "layers", dir).ok()
		want := ".\n./c\n./c/four\n./e\n./e/y\n./link\n./three\n-rwSr--r-- 5:6 three\nfour\ny\none\nmore"
		container := run(t, "buildah", "from", "--pull-never", "localhost/layers").ok()
		script := strings.Split(containerfile, `"`)[5]
		run(t, "buildah", "run", "--isolation", "chroot", container, "--", "/bin/sh", "-c", script).prints(want)
		run(t, "buildah", "rm", container).ok()

		if _, err := exec.LookPath("podman"); err != nil {
			t.Log("no podman on this machine: buildah has to do")
			return
		}
		// It leaves a process that keeps its user namespace.
		defer run(t, "podman", "system", "migrate")
		run(t, "podman", "--cgroup-manager=cgroupfs", "run", "--rm", "--net=host", "--cgroups=disabled", "localhost/layers").prints(want)
	})
}

// containersHome configures the container tools to keep images in the test's
// directory, and returns one with what containerfile needs.
func containersHome(t *testing.T) string {
	t.Helper()
	dir := writable(t)
	plash, err := exec.LookPath("plash")
	if err == nil {
		err = os.Symlink(plash, filepath.Join(dir, "fuse-overlayfs"))
	}
	if err == nil {
		err = copyFile(tiny, filepath.Join(dir, "busybox.tar"), 0o644)
	}
	files := map[string]string{
		"Containerfile":                       containerfile,
		"home/.config/containers/policy.json": `{"default": [{"type": "insecureAcceptAnything"}]}`,
		"storage.conf": "[storage]\ndriver = \"overlay\"\nrunroot = \"" + dir + "/run/containers\"\nrootless_storage_path = \"" + dir + "/storage\"\n" +
			"[storage.options.overlay]\nmount_program = \"" + dir + "/fuse-overlayfs\"\n",
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(path), 0o755)
		}
		if err == nil {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
	}
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "run"), 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", filepath.Join(dir, "home"))
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(dir, "run"))
	t.Setenv("CONTAINERS_STORAGE_CONF", filepath.Join(dir, "storage.conf"))
	return dir
}
