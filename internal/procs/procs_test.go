package procs

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain is the process that TestChildren starts, too: it prints whether it finds
// the one child that it has.
func TestMain(m *testing.M) {
	if os.Getenv("PLASH_TEST_CHILD") == "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(slices.Equal(Children(), []int{cmd.Process.Pid}))
	cmd.Process.Kill()
	cmd.Wait()
	os.Exit(0)
}

// TestChildren: children have the numbers of one's own process namespace, also where
// /proc is that of another.
func TestChildren(t *testing.T) {
	for name, flags := range map[string]uintptr{"ours": 0, "one further in": unix.CLONE_NEWPID} {
		if flags != 0 && os.Geteuid() != 0 {
			continue
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "PLASH_TEST_CHILD=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil || strings.TrimSpace(out.String()) != "true" {
			t.Errorf("process namespace %s: %v, %s", name, err, &out)
		}
	}
}
