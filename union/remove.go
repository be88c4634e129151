package union

import "golang.org/x/sys/unix"

// Unlink removes the name of anything but a directory.
func (u *Union) Unlink(dir *Node, name string) error {
	return u.remove(dir, name, false)
}

// Rmdir removes a directory in which nothing is visible.
func (u *Union) Rmdir(dir *Node, name string) error {
	return u.remove(dir, name, true)
}

func (u *Union) remove(dir *Node, name string, rmdir bool) error {
	if u.upper == nil {
		return unix.EROFS
	}
	d := dir.dir()
	d.mu.Lock()
	defer d.mu.Unlock()
	h, err := u.find(d, name)
	if err != nil {
		return err
	}
	defer h.drop()
	if err := u.checkRemovable(&h, rmdir); err != nil {
		return err
	}
	below, err := u.hasBelow(d, name, &h)
	if err != nil {
		return err
	}
	if below {
		if err := u.copyUp(dir, -1); err != nil {
			return err
		}
	}
	up := d.upper.Load()
	pin, err := up.pin(u)
	if err != nil {
		return err
	}
	defer pin.unpin()
	take := func() error {
		switch {
		case rmdir && below && h.in.layer == u.upper:
			return u.swapWhiteout(up, pin.fd, name)
		case rmdir && !below:
			return u.discardDir(pin.fd, name)
		case below:
			if h.in.layer != u.upper && u.linkWhiteout(pin.fd, name) {
				return nil
			}
			return u.putWhiteout(up, pin.fd, name)
		}
		return unlinkat(pin.fd, name, 0)
	}
	if err := u.unname(&h, dir, name, take); err != nil {
		return err
	}
	d.unlisted(name)
	return nil
}

func (u *Union) checkRemovable(h *hit, rmdir bool) error {
	if rmdir != (h.dirs != nil) {
		if rmdir {
			return unix.ENOTDIR
		}
		return unix.EISDIR
	}
	if !rmdir {
		return nil
	}
	return u.checkEmpty(newDirState(h.dirs))
}

func (u *Union) checkEmpty(d *dirState) error {
	l, err := u.merge(d, true)
	if err == unix.EACCES {
		// Not ours to read: take it for full, as the host would refuse it.
		return unix.ENOTEMPTY
	}
	if err == nil && l.count > 0 {
		err = unix.ENOTEMPTY
	}
	return err
}

// unname calls take, which takes the name from what h found under it in dir,
// and sees to it that a node that users still have open stays reachable.
func (u *Union) unname(h *hit, dir *Node, name string, take func() error) error {
	n := u.table.get(u.keyOf(h.in.layer, &h.st))
	if n == nil {
		if h.in.layer != u.upper {
			// A write may have copied it up since it was found.
			now, err := u.find(dir.dir(), name)
			defer now.drop()
			if err == nil && now.in.layer == u.upper {
				return u.unname(&now, dir, name, take)
			}
		}
		if h.in.layer != u.upper || h.st.Nlink != 1 {
			return take()
		}
		// Before another object can have the number.
		shown, ok := u.origins.get(h.st.Ino)
		u.origins.drop(h.st.Ino)
		err := take()
		if err != nil && ok {
			u.origins.set(h.st.Ino, shown)
		}
		return err
	}
	defer u.Forget(n, 1)
	if n.dir() != nil {
		return u.unnameDir(n, take)
	}
	n.loc.Lock()
	defer n.loc.Unlock()
	primary := n.parent == dir && n.name() == name && !n.gone
	if !n.key.upper() {
		if err := take(); err != nil {
			return err
		}
		x := n.needs()
		x.links--
		n.gone = n.gone || primary
		// It may be forgotten while it has names left.
		if int64(h.st.Nlink)+int64(x.links) > 0 {
			u.unlinked.Store(n.key, x.links)
		} else {
			u.unlinked.Delete(n.key)
		}
		return nil
	}
	if !primary {
		lower := h.in.layer != u.upper && !u.hasName(n, dir, name)
		err := take()
		if err == nil && lower {
			n.needs().links--
		}
		return err
	}
	return u.unnamePrimary(n, take)
}

// unnamePrimary is unname of the name by which n is reached; n.loc is held.
// Where the object would vanish although lower names of it are left, or where
// descriptors run short, it is parked in the work directory.
func (u *Union) unnamePrimary(n *Node, take func() error) error {
	x := n.needs()
	if x.links > 0 || u.nHeld.Load() > u.fds.max.Load()/2 {
		r, err := u.refLocked(n)
		if err != nil {
			return err
		}
		tmp := u.tmpName()
		err = r.link(u.workFD(), tmp)
		r.done()
		if err == nil {
			if err := take(); err != nil {
				u.unlinkWork(tmp)
				return err
			}
			x.parked, n.gone = tmp, true
			x.links--
			return nil
		}
		// EMLINK, or not to be linked: hold it.
	}
	r, err := u.refLocked(n)
	if err != nil {
		return err
	}
	fd, err := u.openat(r.fd, r.name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	r.done()
	if err != nil {
		return err
	}
	if err := take(); err != nil {
		unix.Close(fd)
		return err
	}
	x.held, n.gone = fd, true
	u.nHeld.Add(1)
	return nil
}

// unnameDir is unname of a directory: its descriptor stays open, for those who
// have it as their working directory.
func (u *Union) unnameDir(n *Node, take func() error) error {
	up := n.dir().upper.Load()
	var pin *handle
	if up != nil {
		var err error
		if pin, err = up.pin(u); err != nil {
			return err
		}
	}
	if err := take(); err != nil {
		if pin != nil {
			pin.unpin()
		}
		return err
	}
	n.loc.Lock()
	n.gone = true
	n.dir().pinned = pin
	n.loc.Unlock()
	return nil
}
