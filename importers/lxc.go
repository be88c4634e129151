package importers

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"plash/internal/errs"
	"plash/store"
)

// LXC is an image server of the LXC project, or one that is laid out like it.
type LXC struct {
	Server   string    // its address
	Keyring  string    // file with the keys that must have signed its indexes; "": whoever
	Progress io.Writer // gets what the user should know
}

// NewLXC returns the server that the user's environment chooses.
func NewLXC(progress io.Writer) LXC {
	server := os.Getenv("PLASH_LXC_SERVER")
	if server == "" {
		server = "https://images.linuxcontainers.org"
	}
	return LXC{Server: server, Keyring: os.Getenv("PLASH_LXC_KEYRING"), Progress: progress}
}

// An LXCImage is the newest default image of one version of a distribution,
// for one architecture.
type LXCImage struct {
	Distro, Version string
	URL             string // of its root filesystem's archive

	aliases []string // other names of the version
	arch    string
	built   string // its time, as 20240929_23:08
	hash    string // SHA-256 of the archive in hexadecimal; "" if the index does not say
	size    int64  // of the archive; 0 if the index does not say
}

// Name returns how users call the image.
func (i LXCImage) Name() string { return i.Distro + ":" + i.Version }

// names returns all names of the image.
func (i LXCImage) names() []string {
	names := []string{i.Name()}
	for _, alias := range i.aliases {
		names = append(names, i.Distro+":"+alias)
	}
	return names
}

// Resolve returns the image that name means on this machine: DISTRO:VERSION,
// or DISTRO for its newest release.
func (l LXC) Resolve(name string) (LXCImage, error) {
	images, err := l.images()
	if err != nil {
		return LXCImage{}, err
	}
	return resolve(images, name, lxcArch())
}

// Pull makes an image, on top of the root image, of the one that Resolve finds.
// After an error there is none.
func (l LXC) Pull(s *store.Store, name string) (store.ID, error) {
	image, err := l.Resolve(name)
	if err != nil {
		return 0, err
	}
	u, err := url.Parse(image.URL)
	if err != nil {
		return 0, err
	}
	// On disk first: nothing is unpacked that does not have the right hash.
	f, err := nameless(s)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := l.save(image, u, f); err != nil {
		return 0, errs.Path(u.Redacted(), err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	return unpackImage(s, u.Redacted(), f, "pull:lxc "+image.Name(), l.Progress)
}

// nameless returns a new file in the store's file system of which nothing is
// left, however this process ends.
func nameless(s *store.Store) (*os.File, error) {
	temp, err := s.TempDir()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(temp.Path, "archive")
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if e := temp.Remove(); err == nil && e != nil {
		f.Close()
		return nil, e
	}
	return f, errs.Path(file, err)
}

// save downloads the image's archive from u to f and checks that it is the
// right one.
func (l LXC) save(image LXCImage, u *url.URL, f io.Writer) error {
	if image.hash == "" {
		var err error
		if image.hash, err = l.publishedHash(u); err != nil {
			return err
		}
	}
	d, err := openDownload(u)
	if err != nil {
		return err
	}
	defer d.Close()
	if image.size == 0 {
		image.size = d.size
	}
	wrongSize := func(n int64) error {
		return fmt.Errorf("wrong size: %d bytes, the index says %d", n, image.size)
	}
	if d.size >= 0 && d.size != image.size {
		return wrongSize(d.size)
	}
	t := newTransfer(d, image.size, u.Redacted(), l.Progress)
	defer t.hide()
	var r io.Reader = t
	if image.size >= 0 {
		r = io.LimitReader(t, image.size+1)
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), r)
	if err != nil {
		return err
	}
	if image.size >= 0 && n != image.size {
		return wrongSize(n)
	}
	want, err := hex.DecodeString(image.hash)
	if image.hash != "" && (err != nil || !bytes.Equal(sum.Sum(nil), want)) {
		return fmt.Errorf("wrong hash: its SHA-256 is %x, the index says otherwise", sum.Sum(nil))
	}
	return nil
}

// List returns the names of the images for this machine that pattern finds:
// all if it is empty, else those whose name, or another name of theirs, it
// matches as the shell does, or is a part of if nothing in it is special.
func (l LXC) List(pattern string) ([]string, error) {
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, fmt.Errorf("%s: not a pattern", pattern)
	}
	finds := func(name string) bool {
		if !strings.ContainsAny(pattern, `*?[\`) {
			return strings.Contains(name, pattern)
		}
		matched, _ := path.Match(pattern, name)
		return matched
	}
	images, err := l.images()
	if err != nil {
		return nil, err
	}
	images = slices.DeleteFunc(images, func(i LXCImage) bool {
		return i.arch != lxcArch() || !slices.ContainsFunc(i.names(), finds)
	})
	slices.SortFunc(images, func(a, b LXCImage) int {
		if a.Distro != b.Distro {
			return strings.Compare(a.Distro, b.Distro)
		}
		return compareVersions(a.Version, b.Version)
	})
	var names []string
	for _, image := range images {
		names = append(names, image.Name())
	}
	return slices.Compact(names), nil
}

// images returns the images of the server, for all architectures.
func (l LXC) images() ([]LXCImage, error) {
	server, err := url.Parse(l.Server)
	if err != nil || server.Scheme != "http" && server.Scheme != "https" || server.Host == "" {
		return nil, fmt.Errorf("%s: not the address of an image server: it begins with http:// or https://", l.Server)
	}
	if l.Keyring != "" {
		if err := mayVerify(l.Keyring); err != nil {
			return nil, err
		}
	}
	images, err := l.streams(server)
	if missing(err) {
		images, err = l.olderIndex(server)
		if missing(err) {
			return nil, fmt.Errorf("%s: no index of LXC images: %w", server.Redacted(), err)
		}
	}
	if err == nil && len(images) == 0 {
		err = fmt.Errorf("%s: no images in its index", server.Redacted())
	}
	return images, err
}

// missing tells whether the server has answered that it has no such file.
func missing(err error) bool {
	status, ok := errors.AsType[statusError](err)
	return ok && status.code >= 400 && status.code < 500 && status.code != 429
}
