package importers

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// impatient makes the rules for trying again those of a fast test.
func impatient(t *testing.T, limit time.Duration) {
	oldLimit, oldPause := retryFor, firstPause
	retryFor, firstPause = limit, 10*time.Millisecond
	t.Cleanup(func() { retryFor, firstPause = oldLimit, oldPause })
}

// A trouble is what a server does with the n-th request, counted from 1; false
// is that it serves the file as it should.
type trouble func(n int, w http.ResponseWriter, file []byte) bool

// half sends the announced half of a file, and then nothing.
func half(w http.ResponseWriter, file []byte) {
	w.Header().Set("Content-Length", fmt.Sprint(len(file)))
	w.Write(file[:len(file)/2])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// answer refuses the first times requests.
func answer(code, times int, header ...string) trouble {
	return func(n int, w http.ResponseWriter, _ []byte) bool {
		if n > times {
			return false
		}
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		return true
	}
}

var troubles = map[string]trouble{
	"none":        func(int, http.ResponseWriter, []byte) bool { return false },
	"busy":        answer(429, 2, "Retry-After", "0"),
	"unavailable": answer(503, 2),
	"bad gateway": answer(502, 1, "Retry-After", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)),
	"closes": func(n int, w http.ResponseWriter, _ []byte) bool {
		if n < 3 {
			panic(http.ErrAbortHandler)
		}
		return false
	},
	"breaks off": func(n int, w http.ResponseWriter, file []byte) bool {
		if n == 1 {
			half(w, file)
		}
		return false
	},
	"breaks off, then is unavailable": func(n int, w http.ResponseWriter, file []byte) bool {
		if n == 1 {
			half(w, file)
		}
		return answer(503, 2)(n, w, file)
	},
	"breaks off earlier the second time": func(n int, w http.ResponseWriter, file []byte) bool {
		if n <= 2 {
			w.Header().Set("Content-Length", fmt.Sprint(len(file)))
			w.Write(file[:len(file)/(2*n)])
			panic(http.ErrAbortHandler)
		}
		return false
	},
	"breaks off without a length": func(n int, w http.ResponseWriter, file []byte) bool {
		if n == 1 {
			w.Write(file[:len(file)/2])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		return false
	},
	"slow": func(n int, w http.ResponseWriter, file []byte) bool {
		for part := range 4 {
			w.Write(file[part*len(file)/4 : (part+1)*len(file)/4])
			w.(http.Flusher).Flush()
			time.Sleep(50 * time.Millisecond)
		}
		return true
	},

	// From here on it fails.
	"gone":      answer(404, 1000),
	"forbidden": answer(403, 1000),
	"stays busy": answer(429, 1000,
		"Retry-After", "3600"),
	"stays busy till a day": answer(429, 1000,
		"Retry-After", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)),
	"stays unavailable": answer(503, 1000),
	"lies about length": func(_ int, w http.ResponseWriter, file []byte) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(file)+1))
		w.Write(file)
		return true
	},
	"breaks off each time": func(n int, w http.ResponseWriter, file []byte) bool {
		half(w, file)
		return true
	},
	"breaks off, then has another file": func(n int, w http.ResponseWriter, file []byte) bool {
		if n == 1 {
			half(w, file)
		}
		w.Write(bytes.ToUpper(file))
		return true
	},
	"breaks off, then has a shorter file": func(n int, w http.ResponseWriter, file []byte) bool {
		if n == 1 {
			half(w, file)
		}
		w.Write(file[:10])
		return true
	},
	"breaks off, then has none": func(n int, w http.ResponseWriter, file []byte) bool {
		if n == 1 {
			half(w, file)
		}
		return answer(404, 1000)(n, w, file)
	},
	"says nothing": func(_ int, w http.ResponseWriter, _ []byte) bool {
		time.Sleep(3 * time.Second)
		return true
	},
	"stops in the middle": func(n int, w http.ResponseWriter, file []byte) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(file)))
		w.Write(file[:len(file)/2])
		w.(http.Flusher).Flush()
		time.Sleep(3 * time.Second)
		return true
	},
	"redirects in a circle": answer(302, 1000, "Location", "/"),
	"redirects to a file":   answer(302, 1000, "Location", "file:///etc/passwd"),
}

// TestDownload: each trouble, how it ends, and after how many requests.
func TestDownload(t *testing.T) {
	impatient(t, time.Second)
	file := []byte(strings.Repeat("0123456789abcdef", 10000))
	const most = 7 // after 10+20+…+320 ms; the next would be too late, and on a busy machine these are, too
	tests := []struct {
		trouble  string
		err      string // how it fails; none if it gives the file
		requests int    // 0: does not matter
	}{
		{"none", "", 1},
		{"busy", "", 3},
		{"unavailable", "", 3},
		{"bad gateway", "", 2},
		{"closes", "", 3},
		{"breaks off", "", 2},
		{"breaks off, then is unavailable", "", 3},
		{"breaks off earlier the second time", "", 3},
		{"breaks off without a length", "", 2},
		{"slow", "", 1},
		{"gone", "404 Not Found", 1},
		{"forbidden", "403 Forbidden", 1},
		{"stays busy", "429 Too Many Requests", 1},
		{"stays busy till a day", "429 Too Many Requests", 1},
		{"stays unavailable", "503 Service Unavailable", most},
		{"lies about length", "the transfer broke off after 160000 of 160001 bytes", 2},
		{"breaks off each time", "the transfer broke off after 80000 of 160000 bytes", 2},
		{"breaks off, then has another file", "the file has changed during the transfer", 2},
		{"breaks off, then has a shorter file", "the file has changed during the transfer", 2},
		{"breaks off, then has none", "the transfer broke off after 80000 of 160000 bytes", 2},
		{"says nothing", "connection timed out", 1},
		{"stops in the middle", "the transfer broke off after 80000 of 160000 bytes: Connection timed out", 2},
		{"redirects in a circle", "redirected ten times", 10},
		{"redirects to a file", `redirected to "file:///etc/passwd": only http and https are followed`, 1},
	}
	for _, c := range tests {
		t.Run(c.trouble, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			requests := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				requests++
				n := requests
				mu.Unlock()
				if !troubles[c.trouble](n, w, file) {
					w.Write(file)
				}
			}))
			defer server.Close()
			started := time.Now()
			got, err := read(server.URL)
			switch {
			case c.err == "" && (err != nil || !bytes.Equal(got, file)):
				t.Errorf("%d bytes, %v", len(got), err)
			case c.err != "" && (err == nil || err.Error() != c.err):
				t.Errorf("%d bytes, %v\nwant %s", len(got), err, c.err)
			case !bytes.HasPrefix(file, got):
				t.Error("gave other bytes than those of the file")
			}
			mu.Lock()
			defer mu.Unlock()
			if requests != c.requests && !(c.requests == most && requests > 3 && requests < most) {
				t.Errorf("%d requests, want %d", requests, c.requests)
			}
			if d := time.Since(started); d > 10*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
	if len(tests) != len(troubles) {
		t.Errorf("%d of %d troubles are tested", len(tests), len(troubles))
	}
}

// TestNotReached: what will not pass fails at once.
func TestNotReached(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	for address, want := range map[string]string{
		"http://" + closed.Addr().String():               "connection refused",
		strings.Replace(plain.URL, "http:", "https:", 1): "server gave HTTP response to HTTPS client",
		secure.URL:             "certificate",
		"http://name..invalid": "no such host", // of which no name server is asked
	} {
		started := time.Now()
		if _, err := read(address); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", address, err)
		}
		if d := time.Since(started); d > 10*time.Second {
			t.Errorf("%s: took %v", address, d)
		}
	}
}

func mustParse(address string) *url.URL {
	u, err := url.Parse(address)
	if err != nil {
		panic(err)
	}
	return u
}

func read(address string) ([]byte, error) {
	body, _, err := openHTTP(mustParse(address))
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

// TestStopsRetrying: a download that is closed while it waits ends at once.
func TestStopsRetrying(t *testing.T) {
	impatient(t, time.Hour)
	firstPause = time.Minute
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		half(w, []byte("some content"))
	}))
	defer server.Close()
	d, err := openDownload(mustParse(server.URL))
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { d.Close() })
	started := time.Now()
	if _, err := io.ReadAll(d); err == nil {
		t.Error("no error")
	}
	if d := time.Since(started); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}

// TestText: a text by its address, and that it is not there.
func TestText(t *testing.T) {
	impatient(t, time.Second)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/text":
			io.WriteString(w, "a\x00\xff\n")
		case "/large":
			io.CopyN(w, zeroReader{}, maxText+1)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	if text, err := Text(server.URL + "/text"); err != nil || string(text) != "a\x00\xff\n" {
		t.Errorf("%q, %v", text, err)
	}
	file := t.TempDir() + "/f"
	if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if text, err := Text("file://" + file); err != nil || string(text) != "x" {
		t.Errorf("%q, %v", text, err)
	}
	for address, want := range map[string]string{
		server.URL + "/none": server.URL + "/none: 404 Not Found",
		"file:///no/such":    "file:///no/such: No such file or directory",
	} {
		if _, err := Text(address); !errors.Is(err, fs.ErrNotExist) || err.Error() != want {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := Text(server.URL + "/large"); err == nil || err.Error() != server.URL+"/large: larger than 16 MiB" {
		t.Error(err)
	}
	if _, err := Text("x"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
