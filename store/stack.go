package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/internal/tree"
	"plash/union"
)

// Stack makes a new image: parent with dir as its top layer. It runs as its
// parent does. dir is moved into the store; from another file system it is
// copied and then removed. After an error there is no new image and dir is
// where it was, but for one case: a dir that was copied and could not be
// removed is an error together with the new image's id.
func (s *Store) Stack(parent ID, dir string) (ID, error) {
	m, err := s.Meta(parent)
	if err != nil {
		return 0, err
	}
	m.Made = "stack " + dir
	return s.StackMeta(parent, dir, m)
}

// StackMeta is Stack with m kept beside the layer.
func (s *Store) StackMeta(parent ID, dir string, m Meta) (ID, error) {
	dir, err := s.stackable(dir)
	if err != nil {
		return 0, err
	}
	tmp, node, err := s.newNode(parent, m)
	if err != nil {
		return 0, err
	}
	defer tmp.Remove()
	if sameFS(dir, node) {
		if err := union.Seal(dir, tmp.Path); err != nil && !errors.Is(err, unix.EXDEV) {
			return 0, err
		}
		if err := syncAndIndex(node, dir); err != nil {
			return 0, err
		}
		// The move is the last step but one: to be killed must not leave dir
		// in tmp/.
		id, err := s.place(parent, node, dir)
		if !errors.Is(err, unix.EXDEV) { // one file system, but two mounts
			return id, err
		}
	}
	// To copy what cannot be removed afterwards would be an unpleasant surprise.
	for _, path := range []string{filepath.Dir(dir), dir} {
		if err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS); err != nil {
			return 0, errs.Path(path, err)
		}
	}
	if err := tree.Copy(dir, root(node)); err != nil {
		return 0, err
	}
	if err := union.Seal(root(node), tmp.Path); err != nil {
		return 0, err
	}
	os.Remove(filepath.Join(node, indexFile))
	if err := syncAndIndex(node, root(node)); err != nil {
		return 0, err
	}
	id, err := s.place(parent, node, "")
	if err != nil {
		return 0, err
	}
	return id, tree.Remove(dir)
}

// StackEmpty makes a new image that is equal to parent but has m beside it.
func (s *Store) StackEmpty(parent ID, m Meta) (ID, error) {
	layers, err := s.Layers(parent)
	if err != nil {
		return 0, err
	}
	tmp, node, err := s.newNode(parent, m)
	if err != nil {
		return 0, err
	}
	defer tmp.Remove()
	// The image's root directory is that of its top layer.
	var st unix.Stat_t
	err = unix.Stat(layers[0].Path, &st)
	if errors.Is(err, os.ErrNotExist) {
		return 0, noImage(parent.String()) // it has just been removed
	}
	if err == nil {
		err = os.Mkdir(root(node), 0700)
	}
	if err == nil {
		err = giveRoot(root(node), &st)
	}
	if err != nil {
		return 0, errs.Path(node, err)
	}
	if err := syncAndIndex(node, root(node)); err != nil {
		return 0, err
	}
	return s.place(parent, node, "")
}

// syncAndIndex writes the file system to disk, and meanwhile the index of the
// layer at dir, which becomes node's. The index need not be on the disk: after a
// crash it is one of another layer, or damaged, and not used.
func syncAndIndex(node, dir string) error {
	indexed := make(chan struct{})
	go func() {
		defer close(indexed)
		writeIndex(node, dir)
	}()
	err := syncFS(node)
	<-indexed
	return err
}

// writeIndex writes the index of the layer at dir, which becomes node's. That
// it cannot be done is no error: the layer can be used without.
func writeIndex(node, dir string) {
	index := filepath.Join(node, indexFile)
	if union.WriteIndex(dir, index) != nil {
		os.Remove(index)
	}
}

// giveRoot gives the directory dir the owner and mode in st.
func giveRoot(dir string, st *unix.Stat_t) error {
	// An owner without a number in this user namespace is shown as this one,
	// and plash shows what it owns as root's.
	const overflow = 65534
	if st.Uid != overflow && st.Gid != overflow {
		if err := unix.Lchown(dir, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return unix.Chmod(dir, st.Mode&07777)
}

// StackLive makes a new image of parent and a layer that is not ours: the
// directory root as it is at any time.
func (s *Store) StackLive(parent ID, path string) (ID, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return 0, errs.Path(path, err)
	}
	if st, err := os.Stat(path); err != nil {
		return 0, errs.Path(path, err)
	} else if !st.IsDir() {
		return 0, errs.Path(path, unix.ENOTDIR)
	}
	m, err := s.Meta(parent)
	if err != nil {
		return 0, err
	}
	m.Made = "pull:host"
	tmp, node, err := s.newNode(parent, m)
	if err != nil {
		return 0, err
	}
	defer tmp.Remove()
	err = os.Mkdir(root(node), 0755)
	if err == nil {
		err = os.WriteFile(filepath.Join(node, liveFile), []byte(path), 0644)
	}
	if err != nil {
		return 0, errs.Path(node, err)
	}
	if err := syncFS(node); err != nil {
		return 0, err
	}
	return s.place(parent, node, "")
}

// stackable returns dir without symbolic links if it may become a layer.
func (s *Store) stackable(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return "", errs.Path(dir, err)
	}
	if st, err := os.Lstat(abs); err != nil {
		return "", errs.Path(dir, err)
	} else if !st.IsDir() {
		return "", errs.Path(dir, unix.ENOTDIR)
	}
	store, err := filepath.EvalSymlinks(s.dir)
	if err != nil {
		return "", errs.Path(s.dir, err)
	}
	if within(store, abs) || filepath.Dir(abs) == store || within(abs, filepath.Join(store, "layer")) {
		return "", fmt.Errorf("%s: is part of the data directory", dir)
	}
	// What a container writes to is data/ beside a locked work/; what it reads
	// is locked itself.
	if filepath.Base(abs) == "data" && staysInUse(filepath.Join(filepath.Dir(abs), "work")) {
		return "", fmt.Errorf("%s: changes directory in use", dir)
	}
	if staysInUse(abs) {
		return "", fmt.Errorf("%s: in use as a layer", dir)
	}
	return abs, nil
}

// within reports whether path is dir or below it; both are clean.
func within(path, dir string) bool {
	return strings.HasPrefix(path+"/", strings.TrimSuffix(dir, "/")+"/")
}

// move renames a directory, also one whose mode does not let its owner change
// its "..", which is what the kernel asks for.
func move(from, to string) error {
	err := unix.Rename(from, to)
	if err != unix.EACCES {
		return err
	}
	var st unix.Stat_t
	if unix.Lstat(from, &st) != nil || st.Mode&0200 != 0 || unix.Chmod(from, st.Mode&07777|0200) != nil {
		return err
	}
	if again := unix.Rename(from, to); again != nil {
		unix.Chmod(from, st.Mode&07777)
		return again
	}
	return unix.Chmod(to, st.Mode&07777)
}

// newNode makes a node without files in a temporary directory; the caller
// removes that.
func (s *Store) newNode(parent ID, m Meta) (tmp *Temp, node string, err error) {
	if _, err := s.NodePath(parent); err != nil {
		return nil, "", err
	}
	if tmp, err = s.TempDir(); err != nil {
		return nil, "", err
	}
	node = filepath.Join(tmp.Path, "node")
	err = os.MkdirAll(filepath.Join(node, "_data"), 0755)
	if err == nil {
		err = writeMeta(node, m)
	}
	if err != nil {
		tmp.Remove()
		return nil, "", errs.Path(node, err)
	}
	return tmp, node, nil
}

// place gives node an id and its place below parent's. If dir is given it
// first becomes the node's files; an error brings it back.
func (s *Store) place(parent ID, node, dir string) (ID, error) {
	unlock, err := s.lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	parentNode, err := s.NodePath(parent) // it may have been removed meanwhile
	if err != nil {
		return 0, err
	}
	counter, err := os.OpenFile(s.path("id_counter"), os.O_RDWR, 0)
	if err != nil {
		return 0, errs.Path(s.path("id_counter"), err)
	}
	defer counter.Close()
	info, err := counter.Stat()
	if err != nil {
		return 0, errs.Path(s.path("id_counter"), err)
	}

	for id := ID(info.Size()) + 1; ; id++ {
		err := s.placeAs(id, parentNode, node, dir)
		if errors.Is(err, os.ErrExist) {
			counter.Truncate(int64(id)) // who took it died before doing so
			continue
		}
		if err != nil {
			return 0, err
		}
		// Should this fail, or we die before it, the next one to come finds
		// this id taken and lets the counter catch up.
		counter.Truncate(int64(id))
		return id, nil
	}
}

// maxNode is the longest path of a node: the kernel takes paths of 4095 bytes,
// and files in the node must be reached, such as _data/root. A link to it is
// shorter; a file system may still find it too long.
const maxNode = unix.PathMax - 1 - 64

// placeAs is place with the id given; os.ErrExist if that is taken.
func (s *Store) placeAs(id ID, parentNode, node, dir string) error {
	switch _, err := s.NodePath(id); {
	case err == nil:
		return os.ErrExist
	case !errors.Is(err, ErrNoImage):
		return err
	}
	place, link := filepath.Join(parentNode, id.String()), s.index(id)
	if len(place) > maxNode {
		return fmt.Errorf("%s: too many layers: the path of another one would have %d bytes, of %d that are possible",
			filepath.Base(parentNode), len(place), maxNode)
	}
	target, err := filepath.Rel(filepath.Dir(link), place)
	if err != nil {
		return err
	}
	// A link that is there leads nowhere: whoever made it was killed.
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return errs.Path(link, err)
	}
	err = os.Symlink(target, link)
	if errors.Is(err, unix.ENAMETOOLONG) {
		return fmt.Errorf("%s: too many layers: a link of %d bytes is more than the file system allows",
			filepath.Base(parentNode), len(target))
	}
	if err != nil {
		return errs.Path(link, err)
	}
	// Should the machine lose power, no node may be found without its link, nor
	// the counter be ahead of both.
	err = syncDir(filepath.Dir(link))
	if err == nil && dir != "" {
		err = errs.Path(dir, move(dir, root(node)))
	}
	if err == nil {
		union.TieIndex(filepath.Join(node, indexFile), root(node)) // if there is one
	}
	if err != nil {
		os.Remove(link)
		return err
	}
	if err := os.Rename(node, place); err != nil {
		if dir != "" {
			move(root(node), dir)
		}
		if !errors.Is(err, os.ErrExist) { // else a lost link just came back
			os.Remove(link)
		}
		return errs.Path(place, err)
	}
	return syncDir(parentNode)
}

// sameFS reports whether a rename from a to b has a chance.
func sameFS(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Lstat(a, &x) == nil && unix.Lstat(b, &y) == nil && x.Dev == y.Dev
}

// syncFS writes everything to disk that path's file system holds.
func syncFS(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return errs.Path(path, err)
	}
	defer f.Close()
	return errs.Path(path, unix.Syncfs(int(f.Fd())))
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return errs.Path(path, err)
	}
	defer f.Close()
	if err := f.Sync(); !errors.Is(err, unix.EINVAL) { // some know it for files only
		return errs.Path(path, err)
	}
	return nil
}
