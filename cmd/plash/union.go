package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

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

// calledByMount reports whether words are those with which mount(8) calls the program for
// a type, SOURCE DIR [-sfnv] -o OPTIONS [-t TYPE]. The source may be any word.
func calledByMount(words []string) bool {
	at := slices.Index(words, "-o")
	if at < 2 || at+1 == len(words) || find(words[0]) != nil {
		return false
	}
	options := words[at+1]
	return strings.Contains(options, "lowerdir=") || slices.Contains(strings.Split(options, ","), "remount")
}

// mountHelper does what mount(8) wants.
func (p *plash) mountHelper(words []string) error {
	at := slices.Index(words, "-o")
	for _, flag := range words[2:at] {
		switch flag {
		case "-s", "-n", "-v": // let pass what is not known; write no mtab; say more
		case "-f": // only as if
			return nil
		default:
			return fmt.Errorf("union: %s: no such option of mount(8)", flag)
		}
	}
	return p.parse([]string{"union", words[0], words[1], "-o", words[at+1]})
}
