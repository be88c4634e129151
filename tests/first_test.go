package tests

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestHostImage is the first thing that the README shows.
func TestHostImage(t *testing.T) {
	each(t, everyone, 2*time.Minute, func(t *testing.T) {
		words := []string{"--from", "host", "--run", "echo built >/hello", "--", "cat", "/hello"}
		first := plash(t, words...)
		first.prints("built")
		if !strings.Contains(first.err, "--> echo built\n") {
			first.fatal("the trace on standard error")
		}
		again := plash(t, words...)
		again.prints("built")
		if again.err != "" {
			again.fatal("nothing but the program's output")
		}
		if _, err := os.Lstat("/hello"); err == nil {
			t.Fatal("the host has /hello now")
		}
		// pull:host is an image of its own, and the host's changes show.
		id := plash(t, "pull:host").id()
		dir := writable(t)
		plash(t, "run", id, "cat", "/etc/os-release").prints(strings.TrimSuffix(readFile(t, "/etc/os-release"), "\n"))
		os.WriteFile(filepath.Join(dir, "x"), []byte("seen"), 0o644)
		plash(t, "run", id, "cat", filepath.Join(dir, "x")).prints("seen")
		// What this user may not read stays unreadable.
		if os.Getuid() != 0 {
			plash(t, "run", id, "cat", "/etc/shadow").code(1)
		}
		noTemps(t)
	})
}

// TestHostApt installs a package on the host's image, which is the hard case:
// for an ordinary user the host's directories belong to nobody.
func TestHostApt(t *testing.T) {
	needApt(t)
	each(t, []kind{root, ordinary}, 8*time.Minute, func(t *testing.T) {
		r := plash(t, "--from", "host", "--run", "apt-get update && apt-get install -y cowsay", "--", "/usr/games/cowsay", "hi")
		if out := r.ok(); !strings.Contains(out, "< hi >") {
			r.fatal("a cow that says hi")
		}
		if _, err := os.Lstat("/usr/games/cowsay"); err == nil {
			t.Fatal("the host has cowsay now")
		}
	})
}

// TestDebian works with a Debian from debootstrap.
func TestDebian(t *testing.T) {
	var archive string
	if inChild() {
		archive = debianArchive()
	} else {
		needApt(t)
		archive = makeDebian(t)
	}
	each(t, []kind{root, ordinary}, 12*time.Minute, func(t *testing.T) {
		id := plash(t, "pull:tarfile", archive).id()
		install := "apt-get update && apt-get install -y git jq python3-minimal"
		id2 := plash(t, "build", id, "sh", "-c", install).id()
		r := plash(t, "run", id2, "sh", "-c", `git --version && jq --version && python3 -c "print(1)"`)
		if lines := strings.Split(r.ok(), "\n"); len(lines) != 3 ||
			!strings.HasPrefix(lines[0], "git version ") || !strings.HasPrefix(lines[1], "jq-") || lines[2] != "1" {
			r.fatal("the versions of git and jq, and 1")
		}
		r = plash(t, "run", id, "cat", "/proc/self/mountinfo")
		if !strings.Contains(r.ok(), " / / ") || !strings.Contains(r.out, " - fuse.plash ") {
			r.fatal("a root of the type fuse.plash")
		}
		// The package manager's own check of all installed files.
		plash(t, "run", id2, "sh", "-c", "dpkg --audit && dpkg -V git jq").ok()
		// Owners survive: a file of another group, and one of another user.
		plash(t, "run", id2, "stat", "-c", "%U:%G", "/etc/shadow").prints("root:shadow")
		// Three deep: the binary and the data directory are the host's.
		nest := []string{filepath.Join(bin, "plash"), "run", id2}
		plash(t, append(append(append(nest[1:], nest...), nest...), "sh", "-c", "git --version >/x && cat /x")...).ok()
		noTemps(t)
	})
}

// debianArchive is where makeDebian puts its archive. The number counts what
// makeDebian does.
func debianArchive() string {
	return filepath.Join(cacheDir(), "debian-bookworm-2-"+runtime.GOARCH+".tar")
}

// makeDebian makes an archive of a minimal Debian, once: it stays in the cache.
func makeDebian(t *testing.T) string {
	archive := debianArchive()
	var owner unix.Stat_t
	if unix.Lstat(archive, &owner) == nil && owner.Uid == uint32(os.Getuid()) {
		return archive
	}
	if _, err := exec.LookPath("debootstrap"); err != nil || os.Getuid() != 0 {
		t.Skip("needs root and debootstrap: tests/setup.sh installs it")
	}
	if err := os.MkdirAll(cacheDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(base, "debootstrap-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	root := filepath.Join(dir, "root")
	bootstrap := []string{"debootstrap", "--variant=minbase", "bookworm", root, aptMirror()}
	for range 2 { // it gives up if the mirror refuses once
		if err = exec.Command(bootstrap[0], bootstrap[1:]...).Run(); err == nil {
			break
		}
		os.RemoveAll(root)
	}
	if err != nil {
		command(t, bootstrap...)
	}
	dir = root
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// Update as this machine does: from the same places, the security ones too.
	os.Remove(filepath.Join(dir, "etc/apt/sources.list"))
	sources := fmt.Sprintf("deb %s bookworm main\n", aptMirror())
	if err := os.WriteFile(filepath.Join(dir, "etc/apt/sources.list"), []byte(sources), 0o644); err != nil {
		t.Fatal(err)
	}
	// What is recommended takes longer to install than all that is tested.
	lean := []byte("APT::Install-Recommends \"false\";\n")
	if err := os.WriteFile(filepath.Join(dir, "etc/apt/apt.conf.d/90lean"), lean, 0o644); err != nil {
		t.Fatal(err)
	}
	// And pip as this machine's does, whose files are at /mnt in a container.
	if text, err := os.ReadFile("/etc/pip.conf"); err == nil {
		text = bytes.ReplaceAll(text, []byte("= /"), []byte("= /mnt/"))
		if err := os.WriteFile(filepath.Join(dir, "etc/pip.conf"), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// Under another name first, so that nobody takes half of it for the whole.
	command(t, "tar", "-C", dir, "--numeric-owner", "--xattrs", "--exclude=./dev/*", "-cf", archive+".new", ".")
	if err := os.Rename(archive+".new", archive); err != nil {
		t.Fatal(err)
	}
	return archive
}

// command runs a program that must succeed.
func command(t *testing.T, words ...string) {
	t.Helper()
	cmd := exec.Command(words[0], words[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		text := out.String()
		t.Fatalf("%q: %v\n%s", words, err, text[max(0, len(text)-2000):])
	}
}

// aptMirror returns the mirror that this machine's apt uses for Debian.
func aptMirror() string {
	files, _ := filepath.Glob("/etc/apt/sources.list.d/*")
	for _, file := range append(files, "/etc/apt/sources.list") {
		text, _ := os.ReadFile(file)
		for _, word := range strings.Fields(string(text)) {
			word = strings.TrimSuffix(word, "/")
			if strings.HasPrefix(word, "http") && strings.HasSuffix(word, "/debian") && !strings.Contains(word, "snapshot.") {
				return word
			}
		}
	}
	return "http://deb.debian.org/debian"
}

// needApt skips the test on a machine that is no Debian or has no network.
func needApt(t *testing.T) {
	t.Helper()
	if inChild() {
		return
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("no apt-get on this machine")
	}
	client := http.Client{Timeout: 20 * time.Second}
	var err error
	for pause := range 3 {
		time.Sleep(time.Duration(pause) * time.Second)
		var answer *http.Response
		if answer, err = client.Head(aptMirror() + "/dists/bookworm/InRelease"); err == nil {
			answer.Body.Close()
			return
		}
	}
	t.Skipf("no network: %v", err)
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestNesting runs plash in a container of plash in a container of plash.
func TestNesting(t *testing.T) {
	each(t, everyone, 2*time.Minute, func(t *testing.T) {
		id := needTiny(t)
		self := filepath.Join(bin, "plash")
		deep := func(path string, command ...string) []string {
			return append([]string{"plash", "run", id, path, "run", id, path, "run", id}, command...)
		}
		run(t, deep(self, "sh", "-c", "echo deep >/x; cat /x; grep -c ' / / .*fuse.plash' /proc/self/mountinfo")...).prints("deep\n1")
		run(t, deep("/mnt"+self, "cat", "/etc/motd")...).prints("a tiny system")
		run(t, deep(self, "sh", "-c", "exit 7")...).code(7)
		// Images can be made from inside as well.
		id2 := plash(t, "run", id, self, "build", id, "echo inner >/inner").id()
		plash(t, "run", id2, "cat", "/inner").prints("inner")
		noTemps(t)
	})
}
