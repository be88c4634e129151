package mountopt

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func parse(t *testing.T, words ...string) *Options {
	t.Helper()
	o, err := Parse(words)
	if err != nil {
		t.Fatalf("%q: %v", words, err)
	}
	return o
}

func TestDirectories(t *testing.T) {
	for _, c := range []struct {
		lowerdir string
		want     []string
	}{
		{"a", []string{"a"}},
		{"/a:b/c:d", []string{"/a", "b/c", "d"}},
		{`a\:b:c`, []string{"a:b", "c"}},
		{`a\,b:c\\`, []string{"a,b", `c\`}},
		{`a\b`, []string{`a\b`}},
		{`with blank:ü`, []string{"with blank", "ü"}},
	} {
		o := parse(t, "-o", "lowerdir="+c.lowerdir+`,upperdir=u\,x,workdir=w`, "mnt")
		if !reflect.DeepEqual(o.Lower, c.want) || o.Upper != "u,x" || o.Work != "w" || o.Mountpoint != "mnt" {
			t.Errorf("%s: %q %q %q %q", c.lowerdir, o.Lower, o.Upper, o.Work, o.Mountpoint)
		}
	}
}

func TestPlaces(t *testing.T) {
	for _, words := range [][]string{
		{"-o", "lowerdir=a", "mnt"},
		{"-olowerdir=a", "mnt"},
		{"mnt", "-o", "lowerdir=a"},
		{"union", "mnt", "-o", "rw,lowerdir=a"},
		{"-o", "dev,suid", "-f", "union", "mnt", "-o", "lowerdir=a"},
		{"-o", "lowerdir=a", "--", "mnt"},
	} {
		source := ""
		if slices.Contains(words, "union") {
			source = "union"
		}
		if o := parse(t, words...); o.Source != source || o.Mountpoint != "mnt" || len(o.Lower) != 1 || o.Lower[0] != "a" {
			t.Errorf("%q: %+v", words, o)
		}
	}
}

func TestOptions(t *testing.T) {
	zero, five := uint32(0), uint32(5)
	d := 1500 * time.Millisecond
	for text, want := range map[string]Options{
		"ro,nosuid,nodev,noexec":         {Flags: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		"fsname=a\\,b":                   {Source: "a,b"},
		"remount,ro,lowerdir=other":      {Remount: true, Flags: unix.MS_RDONLY},
		"ro,rw":                          {},
		"volatile":                       {Volatile: true},
		"fsync=0":                        {Volatile: true},
		"fsync=1":                        {},
		"noxattrs=1,noacl":               {NoXattrs: true, NoACL: true},
		"squash_to_root":                 {SquashUID: &zero, SquashGID: &zero},
		"squash_to_uid=5,squash_to_root": {SquashUID: &five, SquashGID: &zero},
		"squash_to_root,squash_to_uid=5": {SquashUID: &five, SquashGID: &zero},
		"timeout=1.5":                    {Timeout: &d},
		"uidmapping=0:1000:1:1:110000:65536,gidmapping=0:5:1": {
			UIDs: []Mapping{{0, 1000, 1}, {1, 110000, 65536}}, GIDs: []Mapping{{0, 5, 1}}},
		"xattr_permissions=2,static_nlink": {XattrPermissions: 2, StaticNlink: true},
		"writeback=0":                      {NoWriteback: true},
		"redirect_dir=off":                 {NoRedirect: true},
		"redirect_dir=on,xino=auto,threaded=1,fast_ino=1,default_permissions": {},
		"debug":       {Foreground: true, Debug: true},
		"allow_other": {AllowOther: true},
		`context="system_u:object_r:a_t:s0:c1,c2",ro`: {
			Flags: unix.MS_RDONLY, Security: []string{`context="system_u:object_r:a_t:s0:c1,c2"`}},
		"x-systemd.automount,_netdev,nofail": {},
	} {
		want.Mountpoint, want.Lower = "mnt", []string{"a"}
		if o := parse(t, "-o", text, "-o", "lowerdir=a", "mnt"); !reflect.DeepEqual(*o, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", text, *o, want)
		}
	}
}

func TestErrorsNameTheOption(t *testing.T) {
	for text, want := range map[string]string{
		"lowerdir=a,foo=1 mnt":                   "foo: no such mount option",
		"lowerdir=a,foo mnt":                     "foo: no such mount option",
		"lowerdir=a":                             "mountpoint missing",
		"upperdir=u,workdir=w mnt":               "lowerdir=: missing",
		"lowerdir=a,upperdir=u mnt":              "workdir=: missing, upperdir= needs it",
		"lowerdir=a::b mnt":                      "lowerdir=a::b: a directory's name is empty",
		"lowerdir=a,timeout=-1 mnt":              "mount option timeout=-1: invalid value",
		"lowerdir=a,timeout=nan mnt":             "mount option timeout=nan: invalid value",
		"lowerdir=a,uidmapping=1:2 mnt":          "mount option uidmapping=1:2: invalid value",
		"lowerdir=a,uidmapping=1:2:4294967295 m": "mount option uidmapping=1:2:4294967295: invalid value",
		"lowerdir=a,squash_to_uid=x mnt":         "mount option squash_to_uid=x: invalid value",
		"lowerdir=a,xattr_permissions=3 mnt":     "mount option xattr_permissions=3: invalid value",
		"lowerdir=a,redirect_dir=maybe mnt":      "mount option redirect_dir=maybe: invalid value",
		"lowerdir=a -x mnt":                      "-x: no such option",
		"lowerdir=a a b c":                       "c: one mountpoint only",
	} {
		_, err := Parse(append([]string{"-o"}, strings.Fields(text)...))
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, not %s", text, err, want)
		}
	}
}

// FuzzParse: no words make it panic, and directories survive being escaped.
func FuzzParse(f *testing.F) {
	f.Add(`lowerdir=a\:b:c,upperdir=d`, `a:b`)
	f.Add(`uidmapping=0:1:2,context="a,b"`, `x\`)
	f.Fuzz(func(t *testing.T, options, dir string) {
		Parse([]string{"-o", options, "mnt"})
		if dir == "" {
			return
		}
		escaped := strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`).Replace(dir)
		o, err := Parse([]string{"-o", "lowerdir=" + escaped + ":b", "mnt"})
		if err != nil || len(o.Lower) != 2 || o.Lower[0] != dir {
			t.Errorf("%q: %+v %v", dir, o, err)
		}
	})
}
