package union

import (
	"golang.org/x/sys/unix"

	"plash/internal/errs"
)

// Seal makes devices of the whiteouts of a layer that are files, where devices
// can be made now: the kernel then knows them in every place of a stack. The
// layer is the same tree before, after, and at any time meanwhile. Nobody may
// write to it. work is a directory in the same file system (else EXDEV) that is
// not used otherwise.
func Seal(path, work string) error {
	if !hasMark(path, filesAttr) {
		return nil
	}
	u := &Union{trusted: realRoot()}
	u.fds.init()
	defer u.Close()
	ly, err := u.openLayer(Layer{Path: path}, nil)
	if err != nil {
		return err
	}
	s := sealer{u: u}
	if s.work, err = u.openat(unix.AT_FDCWD, work, unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		return errs.Path(work, err)
	}
	defer unix.Close(s.work)
	if err := s.makeDonor(); refused(err) {
		return nil
	} else if err != nil {
		return errs.Path(work, err)
	}
	defer unlinkat(s.work, sealDonor, 0)
	if err = s.dir(ly.root); err == nil {
		err = removeMark(path, filesAttr)
	}
	return errs.Path(path+": whiteouts", err)
}

// Names in the work directory.
const (
	sealDonor = "donor"
	sealLink  = "link"
)

// A sealer converts the whiteouts of a layer.
type sealer struct {
	u    *Union
	work int
}

// makeDonor makes the device of which the others are links.
func (s *sealer) makeDonor() error {
	unlinkat(s.work, sealDonor, 0)
	return mknodWhiteout(s.work, sealDonor)
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
	link := func() error { return unix.Linkat(s.work, sealDonor, s.work, sealLink, 0) }
	err := link()
	if err == unix.EMLINK {
		if err = s.makeDonor(); err == nil {
			err = link()
		}
	}
	if err != nil {
		return err
	}
	if err := renameat2(s.work, sealLink, fd, name, 0); err != nil {
		unlinkat(s.work, sealLink, 0)
		return err
	}
	return nil
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
