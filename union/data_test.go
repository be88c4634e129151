package union

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// unprivileged does f as an ordinary user, as far as files are concerned.
func unprivileged(f func()) {
	if os.Geteuid() == 0 {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer unix.SetfsgidRetGid(0)
		defer unix.SetfsuidRetUid(0)
		unix.SetfsgidRetGid(1000)
		unix.SetfsuidRetUid(1000)
	}
	f()
}

// TestDeniedToOwner: what an upper file's mode denies its owner is denied to new
// opens only, which the kernel checks. Who has it open goes on, also after our
// descriptor was closed; but not with a set-gid file, which would lose that bit.
func TestDeniedToOwner(t *testing.T) {
	if os.Getenv("PLASH_TEST_USER") == "one id" {
		t.Skip("it takes several users")
	}
	u, upper := open(t)
	for mode, name := range map[uint32]string{0o444: "r", 0o511: "x", 0o222: "w", 0: "none"} {
		write(t, upper, name)
		check(t, os.Chmod(filepath.Join(upper, name), 0o600))
		if os.Geteuid() == 0 {
			check(t, os.Chown(filepath.Join(upper, name), 1000, 1000))
		}
		check(t, unix.Chmod(filepath.Join(upper, name), mode))
		n := walk(t, u, name)
		unprivileged(func() {
			buf := make([]byte, 10)
			if k, err := u.Read(n, buf, 0); err != nil || string(buf[:k]) != name {
				t.Errorf("mode %o: read %q, %v", mode, buf[:k], err)
			}
			check(t, u.Fsync(n))
			check(t, u.Write(n, []byte("new"), 0, false))
			n.data.Swap(nil).retire()
			check(t, u.Write(n, []byte("er"), 3, false))
			if k, err := u.Read(n, buf, 0); err != nil || string(buf[:k]) != "newer" {
				t.Errorf("mode %o: after writing %q, %v", mode, buf[:k], err)
			}
		})
		var st unix.Stat_t
		if check(t, u.Getattr(n, &st)); st.Mode&0o7777 != mode {
			t.Errorf("mode %o became %o", mode, st.Mode&0o7777)
		}
	}
	path := filepath.Join(upper, "sgid")
	write(t, upper, "sgid")
	if os.Geteuid() == 0 {
		check(t, os.Chown(path, 1000, 7))
	}
	check(t, unix.Chmod(path, 0o2454))
	n := walk(t, u, "sgid")
	unprivileged(func() {
		if err := u.Write(n, []byte("new"), 0, false); err != unix.EACCES {
			t.Errorf("set-gid: %v", err)
		}
	})
	var st unix.Stat_t
	if check(t, unix.Stat(path, &st)); st.Mode&0o7777 != 0o2454 {
		t.Errorf("set-gid: the mode became %o", st.Mode&0o7777)
	}
}

// TestRunningProgram: an upper file that runs, without us, can be read.
func TestRunningProgram(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	check(t, err)
	program, err := os.ReadFile(sleep)
	check(t, err)
	u, upper := open(t)
	path := filepath.Join(upper, "sleep")
	check(t, os.WriteFile(path, program, 0o755))
	cmd := exec.Command(path, "1000")
	check(t, cmd.Start())
	defer cmd.Wait()
	defer cmd.Process.Kill()
	n := walk(t, u, "sleep")
	buf := make([]byte, 4)
	if k, err := u.Read(n, buf, 0); err != nil || string(buf[:k]) != "\x7fELF" {
		t.Errorf("%q, %v", buf[:k], err)
	}
	check(t, u.Fsync(n))
	if err := u.Write(n, []byte("x"), 0, false); err != unix.ETXTBSY {
		t.Errorf("written: %v", err)
	}
}
