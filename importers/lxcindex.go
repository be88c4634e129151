package importers

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"

	"plash/internal/errs"
)

// maxIndex bounds what is kept in memory of a server's answer. The index of
// the LXC project has two MB.
const maxIndex = 64 << 20

// streamsIndex is a simplestreams index: it names lists of products.
type streamsIndex struct {
	Index map[string]struct {
		Datatype string `json:"datatype"`
		Path     string `json:"path"`
	} `json:"index"`
}

// streamsProducts is such a list. A product is called
// `distro:release:arch:variant`, its versions by the time they were built.
type streamsProducts struct {
	Products map[string]struct {
		Aliases string `json:"aliases"` // distro/release[/variant], separated by commas
		Version string `json:"version"`
		Title   string `json:"release_title"`

		Versions map[string]struct {
			Items map[string]streamsItem `json:"items"`
		} `json:"versions"`
	} `json:"products"`
}

// streamsItem is a file of a version.
type streamsItem struct {
	Type   string `json:"ftype"`
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// streams reads the server's simplestreams index. The error is a statusError
// if there is none.
func (l LXC) streams(server *url.URL) ([]LXCImage, error) {
	var index streamsIndex
	data, err := l.signed(below(server, "streams/v1/index.json"), ".gpg")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, notIndex(below(server, "streams/v1/index.json"), err)
	}
	var images []LXCImage
	for _, id := range slices.Sorted(maps.Keys(index.Index)) {
		if kind := index.Index[id].Datatype; kind != "" && kind != "image-downloads" {
			continue
		}
		u := below(server, index.Index[id].Path)
		data, err := l.signed(u, ".gpg")
		if err != nil {
			// It is named by the index: that it is missing is no reason to
			// look for an older one.
			return nil, errors.New(errs.Text(err))
		}
		var list streamsProducts
		if err := json.Unmarshal(data, &list); err != nil {
			return nil, notIndex(u, err)
		}
		images = append(images, list.images(server)...)
	}
	return images, nil
}

func notIndex(u *url.URL, err error) error {
	return fmt.Errorf("%s: not an index of images: %w", u.Redacted(), err)
}

// images returns the list's default images that have an archive.
func (s streamsProducts) images(server *url.URL) []LXCImage {
	var images []LXCImage
	for key, product := range s.Products {
		words := strings.Split(key, ":")
		if len(words) != 4 || words[3] != "default" {
			continue
		}
		image := LXCImage{Distro: words[0], Version: words[1], arch: words[2]}
		for _, alias := range strings.Split(product.Aliases, ",") {
			words := strings.Split(strings.TrimSpace(alias), "/")
			if len(words) == 2 && words[0] == image.Distro {
				image.aliases = append(image.aliases, words[1])
			}
		}
		image.aliases = append(image.aliases, product.Version, product.Title)
		image.aliases = slices.DeleteFunc(image.aliases, func(alias string) bool { return alias == "" })
		for built, version := range product.Versions {
			for _, item := range version.Items {
				if item.Type == "root.tar.xz" && item.Path != "" && built > image.built {
					image.built, image.hash, image.size = built, item.SHA256, item.Size
					image.URL = below(server, item.Path).String()
				}
			}
		}
		if image.URL != "" && image.plain() {
			images = append(images, image)
		}
	}
	return images
}

// olderIndex reads the server's older index, a line
// `distro;release;arch;variant;built;directory` for each image. The error is a
// statusError if there is none.
func (l LXC) olderIndex(server *url.URL) ([]LXCImage, error) {
	data, err := l.signed(below(server, "meta/1.0/index-system"), ".asc")
	if err != nil {
		return nil, err
	}
	var images []LXCImage
	for line := range strings.Lines(string(data)) {
		words := strings.Split(strings.TrimSpace(line), ";")
		if len(words) < 6 || words[3] != "default" || words[5] == "" {
			continue
		}
		image := LXCImage{Distro: words[0], Version: words[1], arch: words[2], built: words[4]}
		image.URL = below(server, words[5]+"/rootfs.tar.xz").String()
		if image.plain() {
			images = append(images, image)
		}
	}
	return images, nil
}

// publishedHash returns the hash of an archive as SHA256SUMS beside it says,
// "" if there is no such file. Signatures are checked by it, so then there
// must be one.
func (l LXC) publishedHash(archive *url.URL) (string, error) {
	dir, name := path.Split(archive.Path)
	sums := *archive
	sums.Path = dir + "SHA256SUMS"
	data, err := l.signed(&sums, ".asc")
	if missing(err) && l.Keyring == "" {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if words := strings.Fields(line); len(words) == 2 && strings.TrimPrefix(words[1], "*") == name {
			return words[0], nil
		}
	}
	return "", fmt.Errorf("not in %s", sums.Redacted())
}

// plain tells whether the names of an image are ones that can be shown and
// typed; others are not taken from an index.
func (i LXCImage) plain() bool {
	for _, name := range []string{i.Distro, i.Version, i.arch} {
		if name == "" || strings.ContainsFunc(name, isOdd) {
			return false
		}
	}
	return true
}

func isOdd(r rune) bool { return r <= ' ' || r > '~' || r == ':' || r == '/' }

// below returns the address of a file of the server, whatever its path says
// never one beside the server's own.
func below(server *url.URL, file string) *url.URL {
	u := *server
	u.Path = path.Join("/", server.Path, path.Join("/", file))
	u.RawPath = ""
	return &u
}

// signed returns what is at u. If there is a keyring, the file beside it whose
// name has the suffix must be a signature of it by one of the keys.
func (l LXC) signed(u *url.URL, suffix string) ([]byte, error) {
	data, err := l.fetch(u)
	if err != nil {
		return nil, errs.Path(u.Redacted(), err)
	}
	if l.Keyring == "" {
		return data, nil
	}
	beside := *u
	beside.Path += suffix
	signature, err := l.fetch(&beside)
	if err != nil {
		return nil, fmt.Errorf("%s: no signature: %s", beside.Redacted(), errs.Text(err))
	}
	if err := verify(l.Keyring, data, signature); err != nil {
		return nil, errs.Path(beside.Redacted(), err)
	}
	return data, nil
}

// fetch returns what is at u.
func (l LXC) fetch(u *url.URL) ([]byte, error) {
	d, err := openDownload(u)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	t := newTransfer(d, d.size, u.Redacted(), l.Progress)
	defer t.hide()
	data, err := io.ReadAll(io.LimitReader(t, maxIndex+1))
	if len(data) > maxIndex {
		return nil, fmt.Errorf("larger than %d MiB, as no index of images is", maxIndex>>20)
	}
	return data, err
}
