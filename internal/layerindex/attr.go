package layerindex

import (
	"hash/crc32"

	"golang.org/x/sys/unix"
)

// attrSum is where the sum of attributes is.
const attrSum = attrSize - 4

// putAttr writes the attributes in st to b, with their sum; nil: they are not known.
func putAttr(b []byte, st *unix.Stat_t) {
	if st != nil {
		putStat(b, st)
	}
	le.PutUint32(b[attrSum:], crc32.Checksum(b[:attrSum], sums()))
}

func putStat(b []byte, st *unix.Stat_t) {
	le.PutUint32(b, st.Mode)
	le.PutUint32(b[4:], uint32(st.Nlink))
	le.PutUint32(b[8:], st.Uid)
	le.PutUint32(b[12:], st.Gid)
	le.PutUint64(b[16:], st.Rdev)
	le.PutUint64(b[24:], uint64(st.Size))
	le.PutUint64(b[32:], uint64(st.Blocks))
	for i, t := range []unix.Timespec{st.Atim, st.Mtim, st.Ctim} {
		le.PutUint64(b[40+8*i:], uint64(t.Sec))
		le.PutUint32(b[64+4*i:], uint32(t.Nsec))
	}
	le.PutUint32(b[76:], uint32(st.Blksize))
}

// getAttr fills st with the attributes in b of the object ino, if they are known. It
// returns false if they are damaged.
func getAttr(b []byte, ino uint64, st *unix.Stat_t) bool {
	if le.Uint32(b[attrSum:]) != crc32.Checksum(b[:attrSum], sums()) {
		return false
	}
	mode := le.Uint32(b)
	if mode == 0 {
		return true
	}
	st.Ino, st.Mode = ino, mode
	setNumber(&st.Nlink, le.Uint32(b[4:]))
	st.Uid, st.Gid = le.Uint32(b[8:]), le.Uint32(b[12:])
	st.Rdev = le.Uint64(b[16:])
	st.Size, st.Blocks = int64(le.Uint64(b[24:])), int64(le.Uint64(b[32:]))
	for i, t := range []*unix.Timespec{&st.Atim, &st.Mtim, &st.Ctim} {
		t.Sec, t.Nsec = int64(le.Uint64(b[40+8*i:])), int64(le.Uint32(b[64+4*i:]))
	}
	setNumber(&st.Blksize, le.Uint32(b[76:]))
	return true
}

// setNumber sets a number whose size is another on each architecture.
func setNumber[T int32 | int64 | uint32 | uint64](to *T, n uint32) { *to = T(n) }
