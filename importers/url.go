package importers

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"plash/internal/errs"
	"plash/store"
)

// URL makes an image, on top of the root image, of the archive at a http,
// https or file address. If progress is a terminal it shows how far the
// transfer is. What fails on the way is tried again for a short time. Errors
// begin with the address; after one, as after a transfer that ends before the
// size that the server announced, there is no image.
func URL(s *store.Store, address string, progress io.Writer) (store.ID, error) {
	u, err := url.Parse(address)
	if err != nil {
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err
		}
		return 0, fmt.Errorf("%q: %w", address, err)
	}
	name := u.Redacted()
	var body io.ReadCloser
	var size int64
	switch u.Scheme {
	case "http", "https":
		body, size, err = openHTTP(u)
	case "file":
		body, size, err = openFile(u)
	case "":
		err = errors.New("not a URL: it begins with http://, https:// or file://")
	default:
		err = fmt.Errorf("unknown scheme %q: http, https and file are known", u.Scheme)
	}
	if err != nil {
		return 0, errs.Path(name, err)
	}
	defer body.Close()
	t := newTransfer(body, size, name, progress)
	id, err := unpackImage(s, name, t, "pull:url "+name, noticeWriter{t, progress})
	t.hide()
	return id, err
}

func openHTTP(u *url.URL) (io.ReadCloser, int64, error) {
	d, err := openDownload(u)
	if err != nil {
		return nil, 0, err
	}
	return d, d.size, nil
}

func openFile(u *url.URL) (io.ReadCloser, int64, error) {
	if u.Host != "" && u.Host != "localhost" {
		return nil, 0, errors.New("a file of another host: write file:///PATH")
	}
	f, err := os.Open(u.Path)
	if err != nil {
		return nil, 0, err
	}
	size := int64(-1)
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		size = info.Size()
	}
	return f, size, nil
}

// transfer shows how much has come. Another goroutine than that of URL reads
// it, which may still do so when URL has failed.
type transfer struct {
	r io.Reader

	mu  sync.Mutex
	bar *progressbar.ProgressBar // nil if it is not shown
}

// newTransfer returns a transfer of size bytes (-1 if that is not known) which
// is shown as name if progress is a terminal.
func newTransfer(r io.Reader, size int64, name string, progress io.Writer) *transfer {
	t := &transfer{r: r}
	if f, ok := progress.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		t.bar = progressbar.NewOptions64(size,
			progressbar.OptionSetWriter(f),
			progressbar.OptionSetDescription(name),
			progressbar.OptionShowBytes(true),
			progressbar.OptionUseIECUnits(true),
			progressbar.OptionFullWidth(),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish())
	}
	return t
}

func (t *transfer) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.mu.Lock()
	if t.bar != nil {
		t.bar.Add(n)
	}
	t.mu.Unlock()
	return n, err
}

// hide takes the progress bar away for good.
func (t *transfer) hide() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bar != nil {
		t.bar.Clear()
		t.bar = nil
	}
}

// noticeWriter takes the progress bar away before something is written.
type noticeWriter struct {
	t *transfer
	w io.Writer
}

func (n noticeWriter) Write(p []byte) (int, error) {
	n.t.hide()
	return n.w.Write(p)
}
