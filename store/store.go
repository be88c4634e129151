// Package store keeps images in the data directory.
//
// An image is a node: the directory layer/0/…/P/ID, below its parent P's node,
// with the layer's files in _data/root, an index of them in _data/index, which
// is a cache (see union.WriteIndex), and what is known about it in
// _data/meta.json; a layer that is not ours, such as the running system's root,
// has its path in _data/live and an empty _data/root. index/ID is a relative
// symbolic link to the node, map/KEY one too, tmp/ holds temporary directories,
// mnt/ is an empty directory to mount on, and the size of id_counter is the
// last id given.
//
// An image exists if its index link leads to its node. A node is built in tmp/,
// its link is made, and then one rename puts it in place: with that the image
// is there, complete. One rename to tmp/ takes it and its children away. So a
// process may be killed at any instant: what it leaves behind are links that
// lead nowhere and directories in tmp/, which Clean removes. Changes are made
// under a lock on the data directory itself, never held while files are copied
// or deleted.
package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/internal/tree"
	"plash/union"
)

// ID names an image; 0 is the empty root image.
type ID int

// The kinds of errors about an id, for errors.Is.
var (
	ErrRoot    = errors.New("special root image")
	ErrNoImage = errors.New("no image")
	ErrInUse   = errors.New("image in use")
)

// noImage reads "no image: WORD".
type noImage string

func (e noImage) Error() string { return ErrNoImage.Error() + ": " + string(e) }
func (noImage) Unwrap() error   { return ErrNoImage }

// A Store is a data directory. Its methods may be called by several goroutines
// and processes at once.
type Store struct{ dir string }

// DefaultDir returns the data directory as the environment gives it:
// $PLASH_DATA, else .plashdata in $HOME, else in the home of the password
// database.
func DefaultDir() (string, error) {
	if dir := os.Getenv("PLASH_DATA"); dir != "" {
		return dir, nil
	}
	home := os.Getenv("HOME")
	if home == "" {
		u, err := user.LookupId(strconv.Itoa(os.Getuid()))
		if err != nil {
			return "", fmt.Errorf("no data directory: neither PLASH_DATA nor HOME is set: %w", err)
		}
		home = u.HomeDir
	}
	return filepath.Join(home, ".plashdata"), nil
}

// Open returns the store in dir, which must exist.
func Open(dir string) (*Store, error) {
	st, err := os.Stat(dir)
	if err == nil && !st.IsDir() {
		err = unix.ENOTDIR
	}
	if err != nil {
		return nil, errs.Path(dir, err)
	}
	abs, err := filepath.Abs(dir)
	return &Store{abs}, errs.Path(dir, err)
}

// Init returns the store in dir and makes what is missing of it. A new data
// directory is closed to other users: it holds set-id programs of images that
// nobody keeps up to date.
func Init(dir string) (*Store, error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0755); err != nil {
		return nil, errs.Path(dir, err)
	}
	if err := os.Mkdir(dir, 0700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, errs.Path(dir, err)
	}
	s, err := Open(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"layer/0/_data/root", "index", "map", "tmp", "mnt"} {
		if err := os.MkdirAll(s.path(name), 0755); err != nil {
			return nil, errs.Path(dir, err)
		}
	}
	counter, err := os.OpenFile(s.path("id_counter"), os.O_WRONLY|os.O_CREATE, 0644)
	if err != nil {
		return nil, errs.Path(dir, err)
	}
	counter.Close()
	if err := os.Symlink("../layer/0", s.index(0)); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, errs.Path(dir, err)
	}
	return s, nil
}

// Dir returns the data directory's absolute path.
func (s *Store) Dir() string { return s.dir }

// Mountpoint returns an empty directory to mount on in a mount namespace of
// one's own.
func (s *Store) Mountpoint() string { return s.path("mnt") }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// index returns the path of id's index link.
func (s *Store) index(id ID) string { return s.path("index", id.String()) }

func (id ID) String() string { return strconv.Itoa(int(id)) }

// ParseID returns the id that word means, digits only. It need not exist.
func ParseID(word string) (ID, error) {
	if word == "" || strings.Trim(word, "0123456789") != "" {
		if word == "" {
			word = "''"
		}
		return 0, fmt.Errorf("%s: must be a positive number", strings.ToValidUTF8(word, "\uFFFD"))
	}
	n, err := strconv.Atoi(word)
	if err != nil {
		return 0, noImage(word) // larger than any id
	}
	return ID(n), nil
}

// Check returns nil if id is an image other than the root image.
func (s *Store) Check(id ID) error {
	if id == 0 {
		return fmt.Errorf("0: %w", ErrRoot)
	}
	_, err := s.NodePath(id)
	return err
}

// NodePath returns the absolute path of id's node.
func (s *Store) NodePath(id ID) (string, error) {
	node, err := s.follow(s.index(id))
	if errors.Is(err, os.ErrNotExist) || err == nil && filepath.Base(node) != id.String() {
		return "", noImage(id.String())
	}
	return node, err
}

// follow returns the path of the node that link, in index/ or map/, leads to;
// an os.ErrNotExist if it leads nowhere.
func (s *Store) follow(link string) (string, error) {
	target, err := os.Readlink(link)
	if errors.Is(err, unix.EINVAL) { // not a link
		err = os.ErrNotExist
	}
	if err != nil {
		return "", errs.Path(link, err)
	}
	node := filepath.Join(filepath.Dir(link), target)
	if !strings.HasPrefix(node, s.path("layer")+"/") {
		return "", errs.Path(link, os.ErrNotExist)
	}
	_, err = os.Lstat(root(node))
	return node, errs.Path(link, err)
}

// liveFile holds, in the node of a layer that is not ours, its path.
const liveFile = "_data/live"

// Where the index of a layer is in its node, and where it and the parent's layer
// are seen from the layer's root.
const (
	indexFile    = "_data/index"
	indexByRoot  = "../index"
	parentByRoot = "../../../_data/root"
)

// root returns the path of the node's files.
func root(node string) string { return filepath.Join(node, "_data/root") }

// Parent returns the image that id is stacked on. The root image has none.
func (s *Store) Parent(id ID) (ID, error) {
	if err := s.Check(id); err != nil {
		return 0, err
	}
	node, err := s.NodePath(id)
	if err != nil {
		return 0, err
	}
	return ParseID(filepath.Base(filepath.Dir(node)))
}

// Layers returns the layers of id, topmost first. The root image's own layer,
// which is empty, is there only if it is all there is.
func (s *Store) Layers(id ID) ([]union.Layer, error) {
	node, err := s.NodePath(id)
	if err != nil {
		return nil, err
	}
	if id == 0 {
		return []union.Layer{{Path: root(node)}}, nil
	}
	fd, err := openDir(unix.AT_FDCWD, node)
	if errors.Is(err, os.ErrNotExist) { // it has just been removed
		return nil, noImage(id.String())
	}
	// The nodes lie in one another: to follow the path of each from the start
	// would take a time that grows with the square of their number.
	var layers []union.Layer
	beside := false
	for base := s.path("layer", "0"); err == nil && len(node) > len(base); node = node[:strings.LastIndexByte(node, '/')] {
		var live string
		live, err = readAt(fd, liveFile)
		switch {
		case live != "":
			layers = append(layers, union.Layer{Path: live, Live: true})
		case beside:
			layers = append(layers, union.Layer{Path: parentByRoot, Beside: true, Index: indexByRoot})
		default:
			layers = append(layers, union.Layer{Path: root(node), Index: indexByRoot})
		}
		beside = live == ""
		if err == nil {
			err = parentDir(&fd)
		}
	}
	unix.Close(fd)
	return layers, errs.Path(s.index(id), err)
}

func openDir(at int, name string) (fd int, err error) {
	return unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// parentDir replaces fd, an open directory, by its parent.
func parentDir(fd *int) error {
	parent, err := openDir(*fd, "..")
	if err == nil {
		unix.Close(*fd)
		*fd = parent
	}
	return err
}

// readAt returns what is in the file name in directory dir; nothing if there is
// none.
func readAt(dir int, name string) (string, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	text, err := io.ReadAll(f)
	return string(text), err
}

// Size returns how much space id's own layer takes on the disk, in bytes.
func (s *Store) Size(id ID) (int64, error) {
	node, err := s.NodePath(id)
	if err != nil {
		return 0, err
	}
	return tree.Usage(root(node))
}

// Images returns the ids of all images but the root image, ascending.
func (s *Store) Images() ([]ID, error) {
	links, err := s.links("index")
	if err != nil {
		return nil, err
	}
	var ids []ID
	for _, name := range links {
		id, err := ParseID(name)
		if err != nil {
			continue
		}
		switch err := s.Check(id); {
		case err == nil:
			ids = append(ids, id)
		case !errors.Is(err, ErrNoImage) && !errors.Is(err, ErrRoot):
			return nil, err
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// links returns the names of the symbolic links in index/ or map/.
func (s *Store) links(dir string) ([]string, error) {
	entries, err := os.ReadDir(s.path(dir))
	if err != nil && !errors.Is(err, os.ErrNotExist) { // purged
		return nil, errs.Path(s.path(dir), err)
	}
	var names []string
	for _, e := range entries {
		if e.Type() == os.ModeSymlink {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// lock waits for the store's lock and returns what gives it back.
func (s *Store) lock() (unlock func(), err error) {
	return lock(s.dir, unix.LOCK_EX)
}

// Hold keeps the image id from being removed until release is called.
func (s *Store) Hold(id ID) (release func(), err error) {
	unlock, err := s.lock() // nobody removes images meanwhile
	if err != nil {
		return nil, err
	}
	defer unlock()
	node, err := s.NodePath(id)
	if err != nil {
		return nil, err
	}
	return lock(root(node), unix.LOCK_SH)
}

// lock waits for a lock on the directory path.
func lock(path string, how int) (unlock func(), err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errs.Path(path, err)
	}
	for {
		if err = unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, errs.Path(path, err)
	}
	return func() { f.Close() }, nil
}

// lockIfFree locks the directory path, which closing the file ends, and
// returns EWOULDBLOCK if somebody else has a lock on it.
func lockIfFree(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// inUse reports whether somebody has a lock on the directory path.
func inUse(path string) bool {
	lock, err := lockIfFree(path)
	if err == nil {
		lock.Close()
	}
	return err == unix.EWOULDBLOCK
}
