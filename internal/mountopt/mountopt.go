// Package mountopt reads the command line of a union mount: the words that
// fuse-overlayfs takes and that mount(8) passes on,
//
//	[-f] [-d] -o OPTION[,OPTION…] [SOURCE] MOUNTPOINT
//
// In OPTIONs a backslash takes the meaning from the comma, colon or backslash
// behind it, as in the options of kernel overlayfs.
package mountopt

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Options is what a command line says.
type Options struct {
	Source     string // what is shown as such; empty: nothing was given
	Mountpoint string
	Foreground bool // -f
	Debug      bool // -d, which is in the foreground, too
	Help       bool // -h: nothing else counts
	Version    bool // -V: likewise
	Remount    bool // what is mounted already gets the Flags: nothing else counts

	Lower       []string // topmost first
	Upper, Work string

	UIDs, GIDs           []Mapping
	SquashUID, SquashGID *uint32
	Timeout              *time.Duration // nil: for ever
	Volatile             bool           // also fsync=0
	NoXattrs, NoACL      bool
	XattrPermissions     int // 0, 1 or 2
	StaticNlink          bool
	NoWriteback          bool
	NoRedirect           bool

	Flags      uintptr // of mount(2)
	AllowOther bool
	Security   []string // options for the kernel's security modules, as they are
}

// A Mapping shows the ids from Stored up, as they are in the layers, as the
// ids from Shown up.
type Mapping struct{ Stored, Shown, Count uint32 }

// flags are the options that are flags of mount(2); those with false clear it.
var flags = map[string]struct {
	bit uintptr
	set bool
}{
	"ro": {unix.MS_RDONLY, true}, "rw": {unix.MS_RDONLY, false},
	"nosuid": {unix.MS_NOSUID, true}, "suid": {unix.MS_NOSUID, false},
	"nodev": {unix.MS_NODEV, true}, "dev": {unix.MS_NODEV, false},
	"noexec": {unix.MS_NOEXEC, true}, "exec": {unix.MS_NOEXEC, false},
	"sync": {unix.MS_SYNCHRONOUS, true}, "async": {unix.MS_SYNCHRONOUS, false},
	"dirsync": {unix.MS_DIRSYNC, true},
	"noatime": {unix.MS_NOATIME, true}, "atime": {unix.MS_NOATIME, false},
	"nodiratime": {unix.MS_NODIRATIME, true}, "diratime": {unix.MS_NODIRATIME, false},
	"relatime": {unix.MS_RELATIME, true}, "norelatime": {unix.MS_RELATIME, false},
	"strictatime": {unix.MS_STRICTATIME, true}, "lazytime": {unix.MS_LAZYTIME, true},
	"nolazytime": {unix.MS_LAZYTIME, false},
}

// ignored are options that others have and that change nothing here: either it
// is always as they say, or it has no meaning.
var ignored = map[string]bool{
	"threaded": true, "xino": true, "fast_ino": true, "fast_ino_check": true, "ino32_t": true,
	"default_permissions": true, "userxattr": true, "defaults": true, "debug": true,
	"subtype": true, "kernel_cache": true, "max_read": true, "max_write": true,
	"splice_read": true, "splice_write": true, "splice_move": true, "nonempty": true,
	"user_id": true, "group_id": true, // of a mount that is there
	"_netdev": true, "noauto": true, "auto": true, "nofail": true, "user": true, "nouser": true, "users": true,
}

// security are options that the kernel's security modules take, each with a
// value.
var security = map[string]bool{
	"context": true, "fscontext": true, "defcontext": true, "rootcontext": true,
}

// Parse reads the words behind the command's name. An error names the word or
// option that is wrong.
func Parse(words []string) (*Options, error) {
	o := &Options{}
	var names []string
	for i := 0; i < len(words); i++ {
		word := words[i]
		switch {
		case word == "-o":
			if i++; i == len(words) {
				return nil, fmt.Errorf("-o: options missing")
			}
			if err := o.list(words[i]); err != nil {
				return nil, err
			}
		case word == "-f":
			o.Foreground = true
		case word == "-d" || word == "--debug":
			o.Foreground, o.Debug = true, true
		case word == "-s": // "single-threaded", of libfuse
		case word == "-h" || word == "--help":
			o.Help = true
		case word == "-V" || word == "--version":
			o.Version = true
		case strings.HasPrefix(word, "-o"):
			if err := o.list(word[2:]); err != nil {
				return nil, err
			}
		case word == "--":
			names = append(names, words[i+1:]...)
			i = len(words)
		case strings.HasPrefix(word, "-") && word != "-":
			return nil, fmt.Errorf("%s: no such option", word)
		default:
			names = append(names, word)
		}
	}
	if o.Help || o.Version {
		return o, nil
	}
	return o, o.check(names)
}

// check sees whether what was given suffices and fits together.
func (o *Options) check(names []string) error {
	switch {
	case len(names) == 0:
		return fmt.Errorf("mountpoint missing")
	case len(names) > 2:
		return fmt.Errorf("%s: one mountpoint only", names[2])
	case o.Remount:
	case len(o.Lower) == 0:
		return fmt.Errorf("lowerdir=: missing")
	case o.Upper != "" && o.Work == "":
		return fmt.Errorf("workdir=: missing, upperdir= needs it")
	case o.Upper == "" && o.Work != "":
		return fmt.Errorf("upperdir=: missing, workdir= is for it")
	}
	o.Mountpoint = names[len(names)-1]
	if len(names) == 2 && o.Source == "" {
		o.Source = names[0]
	}
	return nil
}

// list reads a comma-separated list.
func (o *Options) list(text string) error {
	options := split(text, ',')
	for i := 0; i < len(options); i++ {
		option := options[i]
		if option == "" {
			continue
		}
		// A security context in quotes may have commas.
		if name, value, _ := strings.Cut(option, "="); security[name] && strings.HasPrefix(value, `"`) {
			for !strings.HasSuffix(option, `"`) && i+1 < len(options) {
				i++
				option += "," + options[i]
			}
		}
		if err := o.option(option); err != nil {
			return err
		}
	}
	return nil
}

func (o *Options) option(option string) error {
	name, value, hasValue := strings.Cut(option, "=")
	if f, ok := flags[name]; ok && !hasValue {
		o.Flags &^= f.bit
		if f.set {
			o.Flags |= f.bit
		}
		return nil
	}
	var err error
	switch name {
	case "lowerdir":
		o.Lower = nil
		for _, dir := range split(value, ':') {
			if dir == "" {
				return fmt.Errorf("%s: a directory's name is empty", option)
			}
			o.Lower = append(o.Lower, unescape(dir))
		}
	case "upperdir":
		o.Upper = unescape(value)
	case "workdir":
		o.Work = unescape(value)
	case "uidmapping":
		o.UIDs, err = mappings(value)
	case "gidmapping":
		o.GIDs, err = mappings(value)
	case "squash_to_root":
		o.squash(new(uint32), new(uint32))
	case "squash_to_uid":
		o.SquashUID, err = id(value)
	case "squash_to_gid":
		o.SquashGID, err = id(value)
	case "timeout":
		o.Timeout, err = seconds(value)
	case "fsync":
		var sync bool
		sync, err = boolean(value, hasValue)
		o.Volatile = !sync
	case "volatile":
		o.Volatile = true
	case "noxattrs":
		o.NoXattrs, err = boolean(value, hasValue)
	case "noacl":
		o.NoACL = true
	case "xattr_permissions":
		o.XattrPermissions, err = strconv.Atoi(value)
		if err == nil && (o.XattrPermissions < 0 || o.XattrPermissions > 2) {
			err = strconv.ErrRange
		}
	case "static_nlink":
		o.StaticNlink = true
	case "writeback":
		var back bool
		back, err = boolean(value, hasValue)
		o.NoWriteback = !back
	case "redirect_dir":
		o.NoRedirect, err = value == "off" || value == "nofollow", oneOf(value, "on", "off", "follow", "nofollow")
	case "xino":
		err = oneOf(value, "on", "off", "auto")
	case "remount":
		o.Remount = true
	case "fsname":
		o.Source = unescape(value)
	case "allow_other", "allow_root":
		o.AllowOther = true
	default:
		switch {
		case security[name] && hasValue:
			o.Security = append(o.Security, option)
		case !ignored[name] && !strings.HasPrefix(name, "x-"):
			return fmt.Errorf("%s: no such mount option", name)
		case name == "debug":
			o.Foreground, o.Debug = true, true
		}
	}
	if err != nil {
		return fmt.Errorf("mount option %s: invalid value", option)
	}
	return nil
}

// squash sets what is not set yet: squash_to_uid and squash_to_gid go first.
func (o *Options) squash(uid, gid *uint32) {
	if o.SquashUID == nil {
		o.SquashUID = uid
	}
	if o.SquashGID == nil {
		o.SquashGID = gid
	}
}

// split splits at separators that have no backslash before them.
func split(text string, separator byte) []string {
	var parts []string
	start := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case separator:
			parts = append(parts, text[start:i])
			start = i + 1
		}
	}
	return append(parts, text[start:])
}

// unescape takes the backslashes away that protect a character.
func unescape(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+1 < len(text) && strings.IndexByte(`\:,`, text[i+1]) >= 0 {
			i++
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// mappings reads STORED:SHOWN:COUNT, any number of times, with colons between.
func mappings(text string) ([]Mapping, error) {
	f := strings.Split(strings.Trim(text, ":"), ":")
	if len(f)%3 != 0 {
		return nil, strconv.ErrSyntax
	}
	var all []Mapping
	for i := 0; i < len(f); i += 3 {
		var n [3]uint32
		for k := range n {
			v, err := id(f[i+k])
			if err != nil {
				return nil, err
			}
			n[k] = *v
		}
		m := Mapping{n[0], n[1], n[2]}
		if uint64(m.Stored)+uint64(m.Count) > math.MaxUint32 || uint64(m.Shown)+uint64(m.Count) > math.MaxUint32 {
			return nil, strconv.ErrRange
		}
		all = append(all, m)
	}
	return all, nil
}

func id(text string) (*uint32, error) {
	v, err := strconv.ParseUint(text, 10, 32)
	n := uint32(v)
	return &n, err
}

func seconds(text string) (*time.Duration, error) {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || !(v >= 0) {
		return nil, strconv.ErrSyntax
	}
	const most = 1 << 33 // as a Duration holds them
	d := time.Duration(min(v, most) * float64(time.Second))
	return &d, nil
}

// boolean reads 0 or 1; the name alone means 1.
func boolean(text string, given bool) (bool, error) {
	if !given {
		return true, nil
	}
	v, err := strconv.Atoi(text)
	return v != 0, err
}

func oneOf(text string, words ...string) error {
	for _, w := range words {
		if text == w {
			return nil
		}
	}
	return strconv.ErrSyntax
}
