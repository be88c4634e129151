package union

import (
	"strings"

	"golang.org/x/sys/unix"
)

// A directory that was renamed but not copied has a redirect: the name that it
// has in the layers below, or, with a slash before it, the path there. Only
// "trusted.overlay.redirect" is followed by the kernel (with "userxattr" it
// refuses the directory), so only real root's unions write redirects, and only
// if they are told to.

// maxRedirect is the longest redirect that overlayfs follows, OVL_REDIRECT_MAX.
const maxRedirect = 256

// redirect returns d's redirect, empty if it has none.
func (d *layerDir) redirect(u *Union) string {
	if d.mark(u)&markRedirect == 0 {
		return ""
	}
	h, err := d.pin(u)
	if err != nil {
		return ""
	}
	defer h.unpin()
	prefix := userPrefix
	if u.trusted {
		prefix = trustedPrefix
	}
	v, err := getxattr(ref{fd: h.fd}, prefix+redirectAttr)
	if err != nil {
		return ""
	}
	return string(v)
}

// redirected returns what to look for below a directory that was found by name,
// which may be a path, and has redirect r.
func redirected(name, r string) string {
	if strings.HasPrefix(r, "/") {
		return r
	}
	return name[:strings.LastIndexByte(name, '/')+1] + r
}

// below returns what merges into d from the layers below l.
func below(d *dirState, l *layer) []*layerDir {
	lowers := *d.lowers.Load()
	for len(lowers) > 0 && lowers[0].layer.id <= l.id {
		lowers = lowers[1:]
	}
	return lowers
}

// walk follows path, a redirect, in the layer with this root. It returns the
// directory that holds the last name and what to look for in the layers below;
// last says that nothing below counts.
func (u *Union) walk(root *layerDir, path string) (in *layerDir, next string, last bool, err error) {
	in, next = root, path
	parts := strings.Split(path[1:], "/")
	for i, name := range parts[:len(parts)-1] {
		var st unix.Stat_t
		if err := in.lstat(u, name, &st); err != nil {
			return nil, next, last, err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR { // a whiteout is none either
			return nil, next, true, unix.ENOENT
		}
		in = in.child(name)
		last = last || in.opaque(u)
		if r := in.redirect(u); r != "" {
			next = redirected("/"+strings.Join(parts[:i+1], "/"), r) + "/" + strings.Join(parts[i+1:], "/")
		}
	}
	return in, next, last, nil
}

// lowerPath returns the path by which the layers below have directory n. The
// caller holds renameMu.
func (n *Node) lowerPath() string {
	path := ""
	for {
		n.loc.Lock()
		name, parent := n.name(), n.parent
		n.loc.Unlock()
		if parent == nil {
			return path
		}
		if r := n.dir().redirect; r != "" {
			name = r
		}
		if strings.HasPrefix(name, "/") {
			return name + path
		}
		path = "/" + name + path
		n = parent
	}
}

// setRedirect prepares n, a directory that merges lower ones, to be renamed:
// within its directory or out of it. ENAMETOOLONG: its path is too long. The
// caller holds renameMu.
func (u *Union) setRedirect(n *Node, within bool) error {
	if err := u.copyUp(n, -1); err != nil {
		return err
	}
	r := n.dir().redirect
	if r != "" && (within || r[0] == '/') {
		return nil
	}
	if within {
		r = n.name()
	} else {
		r = n.lowerPath()
	}
	if len(r) > maxRedirect {
		return unix.ENAMETOOLONG
	}
	up := n.dir().upper.Load()
	h, err := up.pin(u)
	if err != nil {
		return err
	}
	defer h.unpin()
	if err := u.keepNumber(n, up, h.fd); err != nil { // the kernel, if it made it, has noted none of ours
		return err
	}
	if err := u.setMark(up, markRedirect, redirectAttr, r); err != nil {
		return err
	}
	n.dir().redirect = r
	return nil
}
