package importers

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"

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
