package fileattr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// An access control list as an extended attribute (linux/posix_acl_xattr.h):
// a version, then entries of tag, permissions and id, all little endian.
const (
	aclVersion   = 2
	aclHeader    = 4
	aclEntry     = 8
	aclNoID      = 0xffffffff
	aclUserOwner = 0x01
	aclUser      = 0x02
	aclGroupOwn  = 0x04
	aclGroup     = 0x08
	aclMask      = 0x10
	aclOther     = 0x20
)

var errACL = errors.New("not an access control list")

// aclText returns a list in the text form of POSIX 1003.1e, entries separated
// by commas, ids as numbers.
func aclText(v []byte) (string, error) {
	if len(v) < aclHeader || (len(v)-aclHeader)%aclEntry != 0 || binary.LittleEndian.Uint32(v) != aclVersion {
		return "", errACL
	}
	var words []string
	for v = v[aclHeader:]; len(v) > 0; v = v[aclEntry:] {
		perm := binary.LittleEndian.Uint16(v[2:])
		id := strconv.FormatUint(uint64(binary.LittleEndian.Uint32(v[4:])), 10)
		var who string
		switch binary.LittleEndian.Uint16(v) {
		case aclUserOwner:
			who = "user:"
		case aclUser:
			who = "user:" + id
		case aclGroupOwn:
			who = "group:"
		case aclGroup:
			who = "group:" + id
		case aclMask:
			who = "mask:"
		case aclOther:
			who = "other:"
		default:
			return "", errACL
		}
		rwx := []byte("rwx")
		for i := range rwx {
			if perm&(4>>i) == 0 {
				rwx[i] = '-'
			}
		}
		words = append(words, who+":"+string(rwx))
	}
	return strings.Join(words, ","), nil
}

// parseACL reads the text form: entries separated by commas or newlines, each
// TAG:WHO:PERMISSIONS, to which star adds :ID when WHO is a name. Names without
// an id are an error: they mean whatever the archive's maker had in his
// password database. An empty list is nil.
func parseACL(text string) ([]byte, error) {
	type entry struct {
		tag, perm uint16
		id        uint32
	}
	var list []entry
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		word, _, _ = strings.Cut(word, "#")
		if word = strings.TrimSpace(word); word == "" {
			continue
		}
		part := strings.Split(word, ":")
		if len(part) == 2 && (part[0] == "mask" || part[0] == "other") {
			part = []string{part[0], "", part[1]}
		}
		if len(part) < 3 {
			return nil, fmt.Errorf("%w: %q", errACL, word)
		}
		e := entry{id: aclNoID}
		switch part[0] {
		case "user", "u":
			e.tag = aclUserOwner
		case "group", "g":
			e.tag = aclGroupOwn
		case "mask", "m":
			e.tag = aclMask
		case "other", "o":
			e.tag = aclOther
		default:
			return nil, fmt.Errorf("%w: %q", errACL, word)
		}
		if part[1] != "" && e.tag != aclMask && e.tag != aclOther {
			who := part[1]
			if len(part) > 3 {
				who = part[3]
			}
			id, err := strconv.ParseUint(who, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("no id for %q", part[1])
			}
			e.tag, e.id = e.tag<<1, uint32(id) // owner becomes named
		}
		for _, c := range part[2] {
			switch c {
			case 'r':
				e.perm |= 4
			case 'w':
				e.perm |= 2
			case 'x':
				e.perm |= 1
			case '-', ' ', '\t':
			default:
				return nil, fmt.Errorf("%w: %q", errACL, word)
			}
		}
		list = append(list, e)
	}
	if len(list) == 0 {
		return nil, nil
	}
	// The kernel takes the entries in the order of tag and id only.
	sort.SliceStable(list, func(i, j int) bool {
		if list[i].tag != list[j].tag {
			return list[i].tag < list[j].tag
		}
		return list[i].id < list[j].id
	})
	v := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range list {
		v = binary.LittleEndian.AppendUint16(v, e.tag)
		v = binary.LittleEndian.AppendUint16(v, e.perm)
		v = binary.LittleEndian.AppendUint32(v, e.id)
	}
	return v, nil
}
