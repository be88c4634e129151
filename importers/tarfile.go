package importers

import (
	"io"
	"os"
	"path/filepath"

	"plash/internal/errs"
	"plash/store"
)

// Tarfile makes an image, on top of the root image, of the archive in the file
// path, or of stdin if path is "" or "-". progress gets what the user should
// know. Errors begin with the file's name; after one there is no image.
func Tarfile(s *store.Store, path string, stdin io.Reader, progress io.Writer) (store.ID, error) {
	if path == "" || path == "-" {
		return unpackImage(s, "standard input", stdin, "pull:tarfile", progress)
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, errs.Path(path, err)
	}
	defer f.Close()
	return unpackImage(s, path, f, "pull:tarfile "+path, progress)
}

// Host makes an image, on top of the root image, of the running system's own
// root. Nothing is copied.
func Host(s *store.Store) (store.ID, error) {
	return s.StackLive(0, "/")
}

// unpackImage makes an image of the archive r; name is what errors call it,
// made the command that the image keeps as its origin.
func unpackImage(s *store.Store, name string, r io.Reader, made string, notices io.Writer) (id store.ID, err error) {
	temp, err := s.TempDir()
	if err != nil {
		return 0, err
	}
	defer func() {
		if e := temp.Remove(); err == nil {
			err = e
		}
	}()
	dir := filepath.Join(temp.Path, "root")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, errs.Path(dir, err)
	}
	if err := Unpack(r, dir, UnpackOptions{Notices: notices}); err != nil {
		return 0, errs.Path(name, err)
	}
	return s.StackMeta(0, dir, store.Meta{Made: made})
}
