package tests

import (
	"archive/tar"

	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// within runs a shell script as root in a mount namespace of its own, in which
// the function `as` runs a command as an ordinary user with subordinate ids.
// $D is a directory of that user.
func within(t *testing.T, script string) result {
	t.Helper()
	dir := writable(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	prelude := `set -e; code=0
		D=` + dir + `
		export PLASH_DATA=$D/data HOME=$D
		as() { setpriv --reuid=plashtest --regid=plashtest --clear-groups "$@"; }
		`
	return run(t, "unshare", "-m", "sh", "-c", prelude+script)
}

// needStage skips a test that could not set its stage.
func needStage(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to set the stage")
	}
	if _, err := os.Stat(tiny); err != nil {
		t.Skip("no static busybox on this machine: tests/setup.sh installs it")
	}
	if r := run(t, "unshare", "-m", "setpriv", "--reuid=plashtest", "--regid=plashtest", "--clear-groups", "true"); !r.state.Success() {
		t.Skipf("needs mount namespaces and the user plashtest: %s", r.err)
	}
}

// TestFullDisk: an import, a build and a program that run out of space.
func TestFullDisk(t *testing.T) {
	each(t, []kind{root}, 2*time.Minute, func(t *testing.T) {
		needStage(t)
		for _, as := range []string{"", "as "} {
			stage := "mount -t tmpfs -o size=4m,mode=777 tmpfs $D\n"
			// The archive does not fit.
			r := within(t, stage+"head -c 8m /dev/urandom >/dev/shm/x$$; tar -cf - -C /dev/shm x$$ 2>/dev/null | "+as+`plash pull:tarfile || code=$?
				rm /dev/shm/x$$; ls -A $PLASH_DATA/tmp; ls $PLASH_DATA/index; exit $code`)
			r.code(1)
			if !strings.Contains(r.err, "No space left on device") || strings.Count(r.err, "\n") != 1 || r.out != "0\n" {
				r.fatal("one line that says that no space is left, and no image")
			}
			// A step of a build that fails for it.
			r = within(t, stage+as+"plash pull:tarfile "+tiny+" >/dev/null\n"+as+`plash build 1 'head -c 8m /dev/urandom >/big' || code=$?
				ls -A $PLASH_DATA/tmp; exit $code`)
			r.code(1)
			if !strings.Contains(r.err, "No space left on device") || r.out != "" {
				r.fatal("that no space is left, no image and no litter")
			}
			// So does one whose program does not listen, and frees the space again.
			r = within(t, stage+as+"plash pull:tarfile "+tiny+" >/dev/null\n"+as+`plash build 1 'head -c 8m /dev/urandom >/big; truncate -s 10 /big; exit 0' || code=$?
				ls -A $PLASH_DATA/tmp; exit $code`)
			r.code(1)
			if !strings.Contains(r.err, "No space left on device") || r.out != "" {
				r.fatal("that no space is left, no image and no litter")
			}
			// A program sees the error, with the kernel's writeback cache when it
			// closes or syncs the file, and plash lives on.
			r = within(t, stage+as+"plash pull:tarfile "+tiny+"  >/dev/null\n"+as+`plash run 1 sh -c 'dd if=/dev/urandom of=/big bs=1M count=8 conv=fsync 2>/dev/null || echo full; rm /big; echo small >/small; cat /small'`)
			r.prints("full\nsmall")
		}
	})
}

// TestNoFuse: without a usable /dev/fuse there is one line that says so.
func TestNoFuse(t *testing.T) {
	each(t, []kind{root}, 2*time.Minute, func(t *testing.T) {
		needStage(t)
		for name, stage := range map[string]string{
			// Other device nodes stay usable: only the one name is missing.
			"absent": `mkdir $D/dev; mount -t tmpfs -o mode=755 tmpfs $D/dev
				for n in null zero full random urandom tty; do touch $D/dev/$n; mount --bind /dev/$n $D/dev/$n; done
				mount --rbind $D/dev /dev` + "\n",
			"another device": "mount --bind /dev/null /dev/fuse\n",
		} {
			for _, as := range []string{"", "as "} {
				t.Run(name+" "+as, func(t *testing.T) {
					r := within(t, stage+as+"plash pull:tarfile "+tiny+"  >/dev/null\n"+as+"plash run 1 true || code=$?; ls -A $PLASH_DATA/tmp; exit $code")
					r.fails(`/dev/fuse`)
					r = within(t, stage+as+"plash pull:tarfile "+tiny+"  >/dev/null\n"+as+"plash build 1 true || code=$?; ls -A $PLASH_DATA/tmp; exit $code")
					r.fails(`/dev/fuse`)
				})
			}
		}
		r := within(t, "mount --bind /dev/null /dev/fuse; plash doctor || code=$?; ls -A $D; exit $code").code(1)
		for _, want := range []string{`fuse device +no +/dev/fuse: `, `attributes +yes`, `containers +no +/dev/fuse: `, `mounts +no`} {
			if !regexp.MustCompile(want).MatchString(r.out) {
				r.fatal(want)
			}
		}
		if !strings.Contains(r.err, "plash error: no container can run here: /dev/fuse: ") || strings.Contains(r.out, "doctor") {
			r.fatal("the reason, and no litter")
		}
		// Closed to others, as on a machine without udev.
		r = within(t, `touch $D/fuse; mknod $D/node c 10 229; chmod 600 $D/node; mount --bind $D/node /dev/fuse
			as plash pull:tarfile `+tiny+` >/dev/null; as plash run 1 true`)
		r.fails(`/dev/fuse: Permission denied`)
	})
}

// TestNoUserNamespaces: an ordinary user where the system does not let him make
// a user namespace. Root needs none.
func TestNoUserNamespaces(t *testing.T) {
	each(t, []kind{root}, 2*time.Minute, func(t *testing.T) {
		needStage(t)
		dir := writable(t)
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		// In a user namespace of its own the limit concerns nobody else.
		script := `echo 0 >/proc/sys/user/max_user_namespaces || exit 99
			export PLASH_DATA=` + dir + `/data
			exec setpriv --reuid=plashtest --regid=plashtest --clear-groups "$@"`
		inside := func(words ...string) result {
			return run(t, append([]string{"unshare", "--user", "--map-users=0,0,65536", "--map-groups=0,0,65536", "--setuid", "0", "--setgid", "0", "sh", "-c", script, "sh"}, words...)...)
		}
		if r := inside("true"); !r.state.Success() {
			t.Skipf("no user namespace can be made to try it in: %s", r.err)
		}
		inside("plash", "pull:tarfile", tiny).fails(`user namespace.*: .*max_user_namespaces|user namespace.*No space left`)
		if list := names(t, filepath.Join(dir, "data/index")); len(list) > 1 {
			t.Errorf("images: %q", list)
		}
		inside("plash", "sudo", "true").fails(`user namespace`)
		r := inside("plash", "doctor").code(1)
		if !regexp.MustCompile(`(?m)^user namespace +no +user namespace: .*$`).MatchString(r.out) || !regexp.MustCompile(`(?m)^containers +no`).MatchString(r.out) {
			r.fatal("that there are no user namespaces")
		}
		id := inside("plash", "pull:host").id()
		inside("plash", "run", id, "true").fails(`user namespace`)
		inside("plash", "--from", "host", "--run", "true", "--", "true").fails(`user namespace`)
		if list := names(t, filepath.Join(dir, "data/tmp")); len(list) != 0 {
			t.Errorf("left in tmp/: %q", list)
		}
	})
}

// TestNoNewuidmap: a user who has subordinate ids but not the program that maps
// them has one id only, and works with that.
func TestNoNewuidmap(t *testing.T) {
	each(t, []kind{root}, 2*time.Minute, func(t *testing.T) {
		needStage(t)
		stage := `mount --bind /dev/null /usr/bin/newuidmap; mount --bind /dev/null /usr/bin/newgidmap
			`
		r := within(t, stage+"as plash pull:tarfile "+tiny+` >/dev/null
			as plash run 1 sh -c 'id -u; wc -l </proc/self/uid_map'
			as plash build 1 'echo x >/x' >/dev/null; as plash run 2 cat /x
			as plash -v run 1 true`)
		r.prints("0\n1\nx")
		if !strings.Contains(r.err, "newuidmap") {
			r.fatal("-v to name newuidmap")
		}
		r = within(t, stage+"as plash doctor")
		if !regexp.MustCompile(`(?m)^subordinate ids +no +newuidmap`).MatchString(r.ok()) || !regexp.MustCompile(`(?m)^containers +yes`).MatchString(r.out) {
			r.fatal("that newuidmap is missing, and that containers run without it")
		}
		// What needs more ids says what would help.
		foreign := archiveOf(t, tar.Header{Name: "file", Typeflag: tar.TypeReg, Uid: 33, Gid: 33})
		file := filepath.Join(writable(t), "foreign.tar")
		if err := os.WriteFile(file, foreign, 0o644); err != nil {
			t.Fatal(err)
		}
		os.Chmod(filepath.Dir(file), 0o755)
		r = within(t, stage+"as plash pull:tarfile "+file)
		if !r.state.Success() {
			r.fails(`newuidmap|subordinate`)
		}
	})
}

// TestUmask: the caller's umask is no part of an image.
func TestUmask(t *testing.T) {
	each(t, everyone, time.Minute, func(t *testing.T) {
		unix.Umask(0o077)
		id := needTiny(t)
		plash(t, "run", id, "stat", "-c", "%a", "/etc/motd", "/etc").prints("644\n755")
		unix.Umask(0o022)
	})
}
