package fusedev

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// handler answers a request with itself.
type handler struct {
	answer func(request string) // called before
	long   func(request string) bool
	fill   bool // use all of the memory for a reply
}

func (h handler) Handle(in []byte, rest *Pipe, out []byte) int {
	if rest != nil {
		in = rest.Append(in)
	}
	if h.answer != nil {
		h.answer(string(in))
	}
	if h.fill {
		clear(out)
	}
	return copy(out, in)
}

func (h handler) MayTakeLong(in []byte, _ bool) bool { return h.long != nil && h.long(string(in)) }

// serve lets a Device serve one end of a socket, which keeps messages apart as
// the real one does, and returns the other.
func serve(t *testing.T, h handler) (kernel int) {
	t.Helper()
	_, kernel = serveFor(t, 1<<16, h)
	return kernel
}

func serveFor(t *testing.T, maxData int, h Handler) (d *Device, kernel int) {
	t.Helper()
	d, kernel = device(t, maxData, h)
	ended := make(chan error)
	go func() { ended <- d.Serve() }()
	t.Cleanup(func() {
		unix.Shutdown(kernel, unix.SHUT_RDWR)
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "EOF") {
			t.Errorf("Serve: %v", err)
		}
	})
	return d, kernel
}

// device returns a Device of one end of a socket, and the other end.
func device(t *testing.T, maxData int, h Handler) (d *Device, kernel int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(fds[0])
		unix.Close(fds[1])
	})
	limit := unix.NsecToTimeval(int64(10 * time.Second))
	if err := unix.SetsockoptTimeval(fds[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	return New(fds[1], maxData, h), fds[0]
}

func send(t *testing.T, kernel int, request string) {
	t.Helper()
	for {
		_, err := unix.Write(kernel, []byte(request))
		if err == nil {
			return
		}
		if err != unix.EINTR {
			t.Fatal(err)
		}
	}
}

func want(t *testing.T, kernel int, reply string) {
	t.Helper()
	if got := receive(t, kernel); got != reply {
		t.Fatalf("reply %q, want %q", got, reply)
	}
}

func receive(t *testing.T, kernel int) string {
	t.Helper()
	buf := make([]byte, 1<<16)
	for {
		n, err := unix.Read(kernel, buf)
		if err == nil {
			return string(buf[:n])
		}
		if err != unix.EINTR { // a socket with a time limit gives EINTR
			t.Fatal(err)
		}
	}
}

func TestAnswers(t *testing.T) {
	kernel := serve(t, handler{})
	for _, request := range []string{"a", strings.Repeat("large", 10000), "b"} {
		send(t, kernel, request)
		want(t, kernel, request)
	}
	for range 10000 {
		send(t, kernel, "many")
		want(t, kernel, "many")
	}
}

// Requests that take long keep no others waiting, be it known before or not,
// and be there few or many of them.
func TestSlowRequests(t *testing.T) {
	for name, known := range map[string]bool{"known": true, "unknown": false} {
		t.Run(name, func(t *testing.T) {
			release := make(chan struct{})
			kernel := serve(t, handler{
				answer: func(r string) {
					if strings.HasPrefix(r, "slow") {
						<-release
					}
				},
				long: func(r string) bool { return known && strings.HasPrefix(r, "slow") },
			})
			const n = 20
			for range n {
				send(t, kernel, "slow")
				send(t, kernel, "fast")
				want(t, kernel, "fast")
			}
			close(release)
			for range n {
				want(t, kernel, "slow")
			}
		})
	}
}

// A request that waits for another one, as LSEEK does, gets its answer.
func TestRequestsThatNeedOthers(t *testing.T) {
	other := make(chan struct{})
	kernel := serve(t, handler{
		answer: func(r string) {
			switch r {
			case "first":
				<-other
			case "second":
				other <- struct{}{}
			}
		},
	})
	for range 100 {
		send(t, kernel, "first")
		send(t, kernel, "second")
		for range 2 {
			receive(t, kernel)
		}
	}
}

// What takes long is taken for a disk's, but while all processors are busy only if
// the thread slept, which is asked from the second one on.
func TestSlow(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	sleep := func(string) {
		pause := unix.Timespec{Nsec: int64(2 * long)}
		unix.Nanosleep(&pause, nil)
	}
	work := func(string) {
		for start := time.Now(); time.Since(start) < 2*long; {
		}
	}
	for _, c := range []struct {
		busy   bool
		answer func(string)
		want   [2]int32 // after one and two
	}{
		{false, sleep, [2]int32{wary, wary}},
		{false, work, [2]int32{wary, wary}},
		{true, sleep, [2]int32{wary - 2, wary}},
		{true, work, [2]int32{wary - 2, wary - 3}},
	} {
		var got [2]int32
		for range 10 { // the test may be kept waiting itself
			d := New(-1, 1<<16, handler{answer: c.answer})
			d.pause.load.busy.Store(c.busy)
			d.slow.Store(wary - 1)
			for i := range got {
				d.handle([]byte("x"), nil, make([]byte, 1), time.Now())
				got[i] = d.slow.Load()
			}
			if got == c.want {
				break
			}
		}
		if got != c.want {
			t.Errorf("busy is %v: %d requests are expected to take long, not %d", c.busy, got, c.want)
		}
	}
}

// Without requests it takes no processor time, also after many.
func TestIdle(t *testing.T) {
	kernel := serve(t, handler{})
	for range 1000 {
		send(t, kernel, "x")
		want(t, kernel, "x")
	}
	time.Sleep(2 * dull * tick)
	before := processorTime(t, unix.RUSAGE_SELF)
	time.Sleep(time.Second)
	if used := processorTime(t, unix.RUSAGE_SELF) - before; used > 10*time.Millisecond {
		t.Errorf("%v of processor time in an idle second", used)
	}
	send(t, kernel, "awake")
	want(t, kernel, "awake")
}

// Soon after many large requests their memory is given back, whoever answered
// them, and the next ones are answered all the same.
func TestMemory(t *testing.T) {
	const maxData = 16 << 20
	const together = spare + 1
	met, goOn := make(chan struct{}), make(chan struct{})
	_, kernel := serveFor(t, maxData, handler{
		fill:   true,
		answer: func(string) { met <- struct{}{}; <-goOn },
		long:   func(string) bool { return true },
	})
	start := resident(t)
	for range 2 {
		for range together {
			send(t, kernel, "x")
			<-met
		}
		for range together {
			goOn <- struct{}{}
		}
		for range together {
			want(t, kernel, "x")
		}
		if used := resident(t) - start; used < maxData {
			t.Fatalf("%d bytes while there are requests: the test proves nothing", used)
		}
		used := 0
		for end := time.Now().Add(10 * rest); time.Now().Before(end); time.Sleep(rest / 10) {
			if used = resident(t) - start; used < maxData/8 {
				break
			}
		}
		if used >= maxData/8 {
			t.Errorf("%d bytes are kept", used)
		}
	}
}

// resident is the memory of this process that is no file's.
func resident(t *testing.T) (bytes int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "RssAnon:")
	fmt.Sscan(after, &bytes)
	return bytes << 10
}

func processorTime(t *testing.T, who int) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(who, &u); err != nil {
		t.Error(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestUnmounted: the end of a mount is no error, also for who was just reading a
// request.
func TestUnmounted(t *testing.T) {
	for _, x := range []struct {
		read error
		end  string
	}{{unix.ENODEV, "<nil>"}, {unix.ECONNABORTED, "<nil>"}, {unix.EIO, "/dev/fuse: input/output error"}} {
		d := New(-1, 0, handler{})
		d.unreadable(x.read)
		<-d.done
		if got := fmt.Sprint(d.err); got != x.end {
			t.Errorf("after %v: %s, want %s", x.read, got, x.end)
		}
	}
}

func TestAt(t *testing.T) {
	type pair struct{ A, B uint32 }
	b := binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, 1), 2)
	if p := At[pair](b); p == nil || *p != (pair{1, 2}) || Size[pair]() != 8 {
		t.Errorf("At = %v, Size %d", p, Size[pair]())
	}
	if p := At[pair](b[:7]); p != nil {
		t.Errorf("At of too few bytes = %v", p)
	}
}
