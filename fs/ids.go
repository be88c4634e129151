package fs

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
)

// An idMap translates between the ids that we see files with and those that the
// kernel speaks in. They differ where the mount was made outside our user
// namespace (by fusermount3), or where the mount's options say so. A nil idMap
// translates nothing.
type idMap struct {
	uids, gids           []IDRange // none: as they are
	squashUID, squashGID *uint32
	unmapped             uint32 // shown for an id that is in no range
}

// An IDRange shows the ids from Stored up, as we see them, as those from Shown up.
type IDRange struct{ Stored, Shown, Count uint32 }

// overflowID is what is shown for an owner without a mapping, the kernel's
// default of /proc/sys/kernel/overflowuid.
const overflowID = 65534

// newIDMap returns what o demands; for HostIDs it reads this process's own
// maps, see user_namespaces(7).
func newIDMap(o Options) (*idMap, error) {
	if o.HostIDs {
		uids, err := readRanges("/proc/self/uid_map")
		if err != nil {
			return nil, err
		}
		gids, err := readRanges("/proc/self/gid_map")
		return &idMap{uids: uids, gids: gids, unmapped: noID}, err
	}
	if len(o.UIDs) == 0 && len(o.GIDs) == 0 && o.SquashUID == nil && o.SquashGID == nil {
		return nil, nil
	}
	return &idMap{o.UIDs, o.GIDs, o.SquashUID, o.SquashGID, overflowID}, nil
}

func readRanges(path string) ([]IDRange, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var ranges []IDRange
	s := bufio.NewScanner(f)
	for s.Scan() {
		var r IDRange
		if _, err := fmt.Sscan(s.Text(), &r.Stored, &r.Shown, &r.Count); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		ranges = append(ranges, r)
	}
	return ranges, s.Err()
}

const noID = ^uint32(0)

// out returns what stored id is shown as, in the other direction it returns the
// one that is stored, or noID.
func out(ranges []IDRange, id, unmapped uint32) uint32 {
	if len(ranges) == 0 {
		return id
	}
	for _, r := range ranges {
		if id-r.Stored < r.Count {
			return r.Shown + (id - r.Stored)
		}
	}
	return unmapped
}

func in(ranges []IDRange, id, _ uint32) uint32 {
	if len(ranges) == 0 {
		return id
	}
	for _, r := range ranges {
		if id-r.Shown < r.Count {
			return r.Stored + (id - r.Shown)
		}
	}
	return noID
}

func (m *idMap) outUID(id uint32) uint32 {
	switch {
	case m == nil:
		return id
	case m.squashUID != nil:
		return *m.squashUID
	}
	return out(m.uids, id, m.unmapped)
}

func (m *idMap) outGID(id uint32) uint32 {
	switch {
	case m == nil:
		return id
	case m.squashGID != nil:
		return *m.squashGID
	}
	return out(m.gids, id, m.unmapped)
}

func (m *idMap) inUID(id uint32) uint32 {
	if m == nil {
		return id
	}
	return in(m.uids, id, noID)
}

func (m *idMap) inGID(id uint32) uint32 {
	if m == nil {
		return id
	}
	return in(m.gids, id, noID)
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

func (m *idMap) acl(name string, acl []byte, translate func(ranges []IDRange, id, unmapped uint32) uint32) {
	if m == nil || !isACL(name) {
		return
	}
	for i := aclHeader; i+aclEntry <= len(acl); i += aclEntry {
		id := acl[i+4 : i+8]
		v := binary.LittleEndian.Uint32(id)
		switch binary.LittleEndian.Uint16(acl[i:]) {
		case aclUser:
			binary.LittleEndian.PutUint32(id, translate(m.uids, v, m.unmapped))
		case aclGroup:
			binary.LittleEndian.PutUint32(id, translate(m.gids, v, m.unmapped))
		}
	}
}
