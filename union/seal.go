package union

import (
	"golang.org/x/sys/unix"

	"plash/internal/errs"
)

// Seal makes devices of the whiteouts of a layer that are files, where devices
// can be made now: the kernel then knows them in every place of a stack. The
// layer is the same tree before, after, and at any time meanwhile. Nobody may
// write to it.
func Seal(path string) error {
	if !hasMark(path, filesAttr) {
		return nil
	}
	u := &Union{trusted: realRoot()}
	u.fds.init()
	defer u.Close()
	ly, err := u.openLayer(Layer{Path: path})
	if err != nil {
		return err
	}
	root, err := ly.root.pin(u)
	if err != nil {
		return errs.Path(path, err)
	}
	defer root.unpin()
	err = u.keepTimes(ly.root, func(fd int) error {
		s := sealer{u: u, root: fd}
		defer unix.Unlinkat(fd, sealDonor, 0)
		if err := s.makeDonor(); refused(err) {
			return nil
		} else if err != nil {
			return err
		}
		if err := s.dir(ly.root); err != nil {
			return err
		}
		return removeMark(fdPath(fd), filesAttr)
	})
	return errs.Path(path+": whiteouts", err)
}

// Names in a layer's root that a sealer uses. What a crash leaves of them are
// whiteouts, and not to be seen.
const (
	sealDonor = "#plash-donor"
	sealLink  = "#plash-link"
)

// A sealer converts the whiteouts of the layer whose root is open.
type sealer struct {
	u    *Union
	root int
}

// makeDonor makes the device of which the others are links.
func (s *sealer) makeDonor() error {
	unix.Unlinkat(s.root, sealDonor, 0)
	return mknodWhiteout(s.root, sealDonor)
}

func (s *sealer) dir(d *layerDir) error {
	h, err := d.pin(s.u)
	if err != nil {
		return err
	}
	defer h.unpin()
	defer d.drop()
	var dirs, files []string
	err = readDirFD(h.fd, func(e rawDirent) bool {
		switch e.typ {
		case unix.S_IFDIR:
			dirs = append(dirs, e.name)
		case unix.S_IFREG:
			files = append(files, e.name)
		}
		return true
	})
	if err == nil && d.mark(s.u)&markXWhiteouts != 0 {
		err = s.u.keepTimes(d, func(fd int) error { return s.convert(d, fd, files) })
	}
	for _, name := range dirs {
		if err == nil {
			err = s.dir(d.child(name))
		}
	}
	return err
}

// convert replaces those of the files that are whiteouts. Once there are none,
// d needs no mark.
func (s *sealer) convert(d *layerDir, fd int, files []string) error {
	for _, name := range files {
		var st unix.Stat_t
		if err := fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if !s.u.isWhiteout(d, name, &st) {
			continue
		}
		if err := s.replace(fd, name); err != nil {
			return err
		}
	}
	return removeMark(fdPath(fd), opaqueAttr)
}

func (s *sealer) replace(fd int, name string) error {
	err := unix.Linkat(s.root, sealDonor, s.root, sealLink, 0)
	if err == unix.EMLINK {
		if err = s.makeDonor(); err == nil {
			err = unix.Linkat(s.root, sealDonor, s.root, sealLink, 0)
		}
	}
	if err == unix.EEXIST { // left by a crash, and a link of the same device
		err = nil
	}
	if err != nil {
		return err
	}
	return unix.Renameat(s.root, sealLink, fd, name)
}

// removeMark removes an attribute of overlayfs, if it is there.
func removeMark(path, name string) error {
	for _, prefix := range []string{userPrefix, trustedPrefix} {
		err := unix.Removexattr(path, prefix+name)
		if err != nil && err != unix.ENODATA && err != unix.EPERM {
			return err
		}
	}
	return nil
}
