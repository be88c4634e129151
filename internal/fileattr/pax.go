package fileattr

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/url"
	"strings"
)

// Keys of PAX records. GNU tar, star and libarchive write and read SCHILY's;
// libarchive adds its own, for values that are not text.
const (
	schilyXattr     = "SCHILY.xattr."
	schilyACL       = "SCHILY.acl.access"
	schilyDefault   = "SCHILY.acl.default"
	libarchiveXattr = "LIBARCHIVE.xattr."
)

// A PAX key ends at the first "=", so GNU tar and we write it escaped.
var (
	escapeKey   = strings.NewReplacer("%", "%25", "=", "%3D")
	unescapeKey = strings.NewReplacer("%25", "%", "%3D", "=")
)

// Record returns the PAX record for an extended attribute. Access control
// lists are written as text, which other programs understand, too.
func Record(x Xattr) (key, value string) {
	key = schilyXattr + escapeKey.Replace(x.Name)
	switch x.Name {
	case AccessACL:
		key = schilyACL
	case DefaultACL:
		key = schilyDefault
	default:
		return key, string(x.Value)
	}
	if text, err := aclText(x.Value); err == nil {
		return key, text
	}
	return schilyXattr + x.Name, string(x.Value)
}

// FromRecords returns the extended attributes that the PAX records of an
// archive's member hold, sorted by name. bad are those that cannot be read.
func FromRecords(records map[string]string) (list []Xattr, bad []error) {
	found := map[string][]byte{}
	for key, value := range records {
		switch {
		case strings.HasPrefix(key, schilyXattr):
			found[unescapeKey.Replace(key[len(schilyXattr):])] = []byte(value)
		case key == schilyACL, key == schilyDefault:
			name := AccessACL
			if key == schilyDefault {
				name = DefaultACL
			}
			acl, err := parseACL(value)
			if err != nil {
				bad = append(bad, fmt.Errorf("%s: %w", name, err))
			} else if acl != nil {
				found[name] = acl
			}
		}
	}
	for key, value := range records {
		if !strings.HasPrefix(key, libarchiveXattr) {
			continue
		}
		name, err := url.PathUnescape(key[len(libarchiveXattr):])
		if err != nil {
			bad = append(bad, err)
			continue
		}
		if _, ok := found[name]; ok {
			continue
		}
		v, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
		if err != nil {
			bad = append(bad, fmt.Errorf("%s: %w", name, err))
			continue
		}
		found[name] = v
	}
	for name, value := range found {
		if name == "security.capability" {
			value = capability(value)
		}
		list = append(list, Xattr{name, value})
	}
	sortXattrs(list)
	return list, bad
}

// capability returns a file's capabilities without the root id of the user
// namespace they were meant for (struct vfs_ns_cap_data in linux/capability.h:
// revision 3 is revision 2 with that id behind it): the kernel then takes the
// namespace in which they are set.
func capability(v []byte) []byte {
	const (
		mask, revision2, revision3 = 0xff000000, 0x02000000, 0x03000000
		size2, size3               = 20, 24
	)
	if len(v) != size3 {
		return v
	}
	magic := binary.LittleEndian.Uint32(v)
	if magic&mask != revision3 {
		return v
	}
	out := append([]byte(nil), v[:size2]...)
	binary.LittleEndian.PutUint32(out, magic&^mask|revision2)
	return out
}
