package fs

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
)

// An idMap translates between our user namespace's ids and the host's. It is
// needed where the mount was made outside our namespace (by fusermount3): the
// kernel then speaks in host ids, while we see files with our own. A nil idMap
// translates nothing.
type idMap struct{ uids, gids []idRange }

type idRange struct{ inside, outside, count uint32 }

// newIDMap reads this process's own maps; see user_namespaces(7).
func newIDMap() (*idMap, error) {
	uids, err := readRanges("/proc/self/uid_map")
	if err != nil {
		return nil, err
	}
	gids, err := readRanges("/proc/self/gid_map")
	return &idMap{uids, gids}, err
}

func readRanges(path string) ([]idRange, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var ranges []idRange
	s := bufio.NewScanner(f)
	for s.Scan() {
		var r idRange
		if _, err := fmt.Sscan(s.Text(), &r.inside, &r.outside, &r.count); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		ranges = append(ranges, r)
	}
	return ranges, s.Err()
}

const noID = ^uint32(0)

func out(ranges []idRange, id uint32) uint32 {
	for _, r := range ranges {
		if id-r.inside < r.count {
			return r.outside + (id - r.inside)
		}
	}
	return noID
}

func in(ranges []idRange, id uint32) uint32 {
	for _, r := range ranges {
		if id-r.outside < r.count {
			return r.inside + (id - r.outside)
		}
	}
	return noID
}

func (m *idMap) outUID(id uint32) uint32 {
	if m == nil {
		return id
	}
	return out(m.uids, id)
}

func (m *idMap) outGID(id uint32) uint32 {
	if m == nil {
		return id
	}
	return out(m.gids, id)
}

func (m *idMap) inUID(id uint32) uint32 {
	if m == nil {
		return id
	}
	return in(m.uids, id)
}

func (m *idMap) inGID(id uint32) uint32 {
	if m == nil {
		return id
	}
	return in(m.gids, id)
}

// ACLs travel as extended attributes in the form of linux/posix_acl_xattr.h: a
// version, then entries of tag, permissions and id, all little-endian.
const (
	aclHeader = 4
	aclEntry  = 8
	aclUser   = 0x02 // ACL_USER
	aclGroup  = 0x08 // ACL_GROUP
)

func isACL(name string) bool {
	return name == "system.posix_acl_access" || name == "system.posix_acl_default"
}

func (m *idMap) aclOut(name string, acl []byte) { m.acl(name, acl, out) }
func (m *idMap) aclIn(name string, acl []byte)  { m.acl(name, acl, in) }

func (m *idMap) acl(name string, acl []byte, translate func([]idRange, uint32) uint32) {
	if m == nil || !isACL(name) {
		return
	}
	for i := aclHeader; i+aclEntry <= len(acl); i += aclEntry {
		id := acl[i+4 : i+8]
		v := binary.LittleEndian.Uint32(id)
		switch binary.LittleEndian.Uint16(acl[i:]) {
		case aclUser:
			binary.LittleEndian.PutUint32(id, translate(m.uids, v))
		case aclGroup:
			binary.LittleEndian.PutUint32(id, translate(m.gids, v))
		}
	}
}
