package union

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// TestModeWithoutACL: without its ACL a file permits nobody more than with it, and a
// user whom the ACL does not name no less, unless it names another.
func TestModeWithoutACL(t *testing.T) {
	type entry struct {
		tag, perm uint16
		id        uint32
	}
	const fileGroup = 10
	r := rand.New(rand.NewPCG(1, 2))
	for range 100000 {
		mask, own, other := uint16(r.IntN(8)), uint16(r.IntN(8)), uint16(r.IntN(8))
		users := []entry{{2, uint16(r.IntN(8)), 1}, {2, uint16(r.IntN(8)), 2}}[:r.IntN(3)]
		groups := []entry{{8, uint16(r.IntN(8)), fileGroup}, {8, uint16(r.IntN(8)), 11}}[:r.IntN(3)]
		all := append([]entry{{1, 6, 0}}, users...)
		all = append(append(all, entry{4, own, 0}), groups...)
		all = append(all, entry{16, mask, 0}, entry{32, other, 0})
		acl := []byte{2, 0, 0, 0}
		for _, e := range all {
			acl = binary.LittleEndian.AppendUint16(acl, e.tag)
			acl = binary.LittleEndian.AppendUint16(acl, e.perm)
			acl = binary.LittleEndian.AppendUint32(acl, e.id)
		}
		// permitted is what the ACL permits user uid of these groups, see acl(5).
		permitted := func(uid uint32, in ...uint32) (most uint16) {
			for _, e := range users {
				if e.id == uid {
					return e.perm & mask
				}
			}
			found := false
			for _, g := range in {
				if g == fileGroup {
					found, most = true, most|own
				}
				for _, e := range groups {
					if e.id == g {
						found, most = true, most|e.perm
					}
				}
			}
			if found {
				return most & mask
			}
			return other
		}
		mode := modeWithoutACL(acl, 0o104600|uint32(mask)<<3|uint32(other))
		for uid := uint32(1); uid <= 3; uid++ {
			for _, in := range [][]uint32{nil, {fileGroup}, {11}, {fileGroup, 11}} {
				got, most := uint16(mode)&7, permitted(uid, in...)
				if len(in) > 0 && in[0] == fileGroup {
					got = uint16(mode) >> 3 & 7
				}
				if got&^most != 0 {
					t.Fatalf("%v: mode %o permits user %d of groups %v more than %o", all, mode, uid, in, most)
				}
				if len(users)+len(groups) == 0 && got != most {
					t.Fatalf("%v: mode %o permits user %d of groups %v less than %o", all, mode, uid, in, most)
				}
			}
		}
		if mode&^0o077 != 0o104600 {
			t.Fatalf("%v: mode %o", all, mode)
		}
	}
}
