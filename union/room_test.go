package union

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRoom: the table of descriptors grows before it is full.
func TestRoom(t *testing.T) {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil || lim.Cur <= 1024 {
		t.Skipf("no more than %d descriptors: %v", lim.Cur, err)
	}
	defer room.Store(room.Load())
	size := tableSize(t)
	room.Store(int64(size))
	if makeRoom(size/2 - 1); room.Load() != int64(size) {
		t.Errorf("room for %d instead of %d, which are not needed yet", room.Load(), size)
	}
	makeRoom(size / 2)
	for start := time.Now(); tableSize(t) < min(size*roomFactor, int(lim.Cur)); time.Sleep(time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatalf("the table is for %d still, before it was for %d", tableSize(t), size)
		}
	}

	u, _ := open(t)
	room.Store(2)
	fd, err := u.openat(unix.AT_FDCWD, "/", unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if room.Load() == 2 {
		t.Errorf("descriptor %d was opened, and no room made", fd)
	}
}

// tableSize returns for how many descriptors this process has a table.
func tableSize(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "FDSize:")
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
