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
	if len(c.Words) == 0 {
		return find("union").usage("union")
	}
	o, err := mountopt.Parse(c.Words)
	if err != nil {
		return fmt.Errorf("union: %w", err)
	}
	switch {
	case o.Help:
		return printSection(find("union"))
	case o.Version:
		return printLine("fuse-overlayfs: plash union " + version)
	case o.Remount:
		return launcher.Remount(o.Mountpoint, o.Flags)
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
		Source: o.Source, Flags: o.Flags, Security: o.Security, AllowOther: o.AllowOther, Foreground: o.Foreground,
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
