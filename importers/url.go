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
	name, body, size, err := open(address)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	t := newTransfer(body, size, name, progress)
	id, err := unpackImage(s, name, t, "pull:url "+name, noticeWriter{t, progress})
	t.hide()
	return id, err
}

// maxText is more than any text is that people write.
const maxText = 16 << 20

// Text returns the text at a http, https or file address; fs.ErrNotExist if the
// server has none there. It tries again, and words its errors, as URL does.
func Text(address string) ([]byte, error) {
	name, body, _, err := open(address)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, maxText+1))
	if len(text) > maxText {
		err = fmt.Errorf("larger than %d MiB", maxText>>20)
	}
	return text, errs.Path(name, err)
}

// open returns what is at address, how large it is (-1 if that is not known),
// and the address without its password. Errors begin with that.
func open(address string) (name string, body io.ReadCloser, size int64, err error) {
	u, err := url.Parse(address)
	if err != nil {
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err
		}
		return "", nil, 0, fmt.Errorf("%q: %w", address, err)
	}
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
	return u.Redacted(), body, size, errs.Path(u.Redacted(), err)
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
