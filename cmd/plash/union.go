package main

import (
	"fmt"
	"os"

	"plash/fs"
	"plash/internal/mountopt"
	"plash/launcher"
	"plash/union"
)

type unionCommand struct {
	Words []string `arg:"" optional:"" name:"WORD"`
}

// Run mounts a union of directories, with the command line of fuse-overlayfs.
func (c *unionCommand) Run(p *plash) error {
	o, err := mountopt.Parse(c.Words)
	if err != nil {
		return fmt.Errorf("union: %w", err)
	}
	switch {
	case o.Help:
		fmt.Print(unionHelp)
		return nil
	case o.Version:
		return printLine("fuse-overlayfs: plash union " + version)
	}
	return unionMount(o).Mount(o.Mountpoint, p.verbose)
}

func unionMount(o *mountopt.Options) launcher.UnionMount {
	m := launcher.UnionMount{
		Config: union.Config{
			Upper: o.Upper, Work: o.Work, Volatile: o.Volatile,
			Redirect: !o.NoRedirect, XattrPermissions: o.XattrPermissions,
		},
		Serve: fs.Options{
			SquashUID: o.SquashUID, SquashGID: o.SquashGID, Timeout: o.Timeout,
			WriteThrough: o.NoWriteback, NoXattrs: o.NoXattrs, NoACL: o.NoACL,
			StaticNlink: o.StaticNlink, Opens: true, Debug: o.Debug,
		},
		Flags: o.Flags, Security: o.Security, AllowOther: o.AllowOther, Foreground: o.Foreground,
	}
	// As fuse-overlayfs takes it: set at all.
	_, m.Config.NoDevices = os.LookupEnv("FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT")
	for _, dir := range o.Lower {
		m.Config.Lowers = append(m.Config.Lowers, union.Layer{Path: dir, Foreign: true})
	}
	for _, r := range o.UIDs {
		m.Serve.UIDs = append(m.Serve.UIDs, fs.IDRange(r))
	}
	for _, r := range o.GIDs {
		m.Serve.GIDs = append(m.Serve.GIDs, fs.IDRange(r))
	}
	return m
}

const unionHelp = `usage: plash union [-f] [-d] -o lowerdir=DIR[:DIR…][,upperdir=DIR,workdir=DIR][,OPTION…] [SOURCE] MOUNTPOINT

  -f  stay in the foreground until the mount is gone
  -d  the same, and print all requests to standard error
  -h  print this help
  -V  print the version

Mount options (a backslash protects a comma or colon in a directory's name):
  lowerdir=DIR[:DIR…]   directories that are merged and only read, the topmost first
  upperdir=DIR          directory on top, which takes all changes; without it the mount is read-only
  workdir=DIR           empty directory on the same file system as upperdir
  ro, nosuid, nodev, noexec, sync, dirsync, noatime, nodiratime, relatime
                        and their opposites: as in mount(8)
  uidmapping=ID:SHOWN:COUNT[:…], gidmapping=…
                        show the owners from ID up as those from SHOWN up
  squash_to_root, squash_to_uid=ID, squash_to_gid=ID
                        show everything as owned by root, or by ID
  timeout=SECONDS       how long the kernel may cache names and attributes; for ever unless given
  volatile, fsync=0     do not wait for the disk at fsync(2): after a power failure the upper
                        directory may be damaged
  writeback=0           pass every write on at once: slower, but a full disk is reported by write(2)
                        and not by close(2) or fsync(2)
  redirect_dir=off      copy a lower directory that is renamed. Otherwise real root marks it, as
                        kernel overlayfs does with redirect_dir=on
  noxattrs=1, noacl     no extended attributes, no ACLs
  xattr_permissions=1|2 keep owners and modes in an attribute, security.fuseoverlayfs.override_stat
                        or user.containers.override_stat
  static_nlink          show one link for every directory
  allow_other           without privileges: let other users in (see fuse.conf); else always so
  context=…, fscontext=…, defcontext=…, rootcontext=…
                        for the kernel's security modules
These are accepted and change nothing: allow_root, debug (as -d), default_permissions, fast_ino, fsname,
ino32_t, kernel_cache, max_read, max_write, nonempty, splice_*, subtype, threaded, userxattr, xino and
what only fstab(5) uses. FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT in the environment: write no device files
as whiteouts.
`
