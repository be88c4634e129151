package union

import (
	"hash/maphash"
	"math/bits"
	"strings"
)

// A Dirent is one name of a merged directory.
type Dirent struct {
	Name string
	Ino  uint64 // as Getattr shows it
	Type uint32 // S_IFMT bits
}

// A listing gives each name of a directory a cookie that it keeps while the
// node lives: its position, two being left for "." and "..". A removed name
// leaves a gap, which the next new one fills, or else it goes to the end; so a scan
// that removes, creates or renames names on its way meets every other name exactly
// once. It ends where the listing ended when the last scan began, its own or another's:
// one that creates a name for each that it meets would never end.
//
// A directory may have millions of names, so entries are never moved, names lie
// side by side, and the table that finds them holds nothing but positions.
type listing struct {
	segments [][]entry // of segmentSize each, but for the last, see roomier and clip
	size     int       // of all, with gaps
	count    int       // of all, without
	end      int       // of scans: the size when the last one began
	gaps     []uint32  // their positions, that of the last one last
	table    []uint32  // positions plus 1, by the hashes of names, 0 is free; made when it is worth it
	taken    int       // places in the table that are not free
	searches int       // without a table
	late     []Dirent  // what set has still to do
	names    nameStore
	next     int // what ownName expects to be asked for
}

const (
	firstCookie = 2
	segmentSize = 2048 // 32 kB, the largest size of Go's small objects
	// tableAfter is how many searches through all names take as long as making a
	// table: to create one name among 100,000 took 9.4 instead of 3.5 ms with a table.
	tableAfter = 16
)

// An entry is a Dirent in half of its memory.
type entry struct {
	ino    uint64
	at     uint32 // where its name is in the listing's names
	block  uint16
	length uint8 // of the name, 0 in a gap
	typ    uint8 // S_IFMT bits, shifted
}

const typeShift = 12

func (l *listing) entry(i int) *entry { return &l.segments[i/segmentSize][i%segmentSize] }

// at returns what is at position i; a gap has no name.
func (l *listing) at(i int) Dirent {
	e := l.entry(i)
	return Dirent{l.names.get(e.block, e.at, e.length), e.ino, uint32(e.typ) << typeShift}
}

// add gives e, whose name l does not have, a position.
func (l *listing) add(e Dirent) {
	if n := len(l.gaps); n > 0 {
		i := int(l.gaps[n-1])
		l.gaps = l.gaps[:n-1]
		l.fill(i, e)
		return
	}
	if l.size%segmentSize == 0 {
		var segment []entry
		if l.size > 0 {
			segment = make([]entry, 0, segmentSize)
		}
		l.segments = append(l.segments, segment)
	}
	last := len(l.segments) - 1
	l.segments[last] = append(roomier(l.segments[last]), entry{})
	l.size++
	l.fill(l.size-1, e)
}

// fill makes e what is at position i.
func (l *listing) fill(i int, e Dirent) {
	block, at := l.names.keep(e.Name)
	*l.entry(i) = entry{e.Ino, at, block, uint8(len(e.Name)), uint8(e.Type >> typeShift)}
	l.count++
	if l.table != nil {
		l.enter(i)
	}
}

// roomier returns s, which is shorter than a segment, with room for one more. It
// grows by powers of two: the Go runtime keeps up to 26 kB for ever for each of its
// size classes that was used.
func roomier(s []entry) []entry {
	if len(s) < cap(s) {
		return s
	}
	return append(make([]entry, 0, max(powerOfTwo(len(s)+1), 4)), s...)
}

// clip gives back room at the end, if it is a quarter or more.
func (l *listing) clip() {
	if len(l.segments) == 0 {
		return
	}
	last := &l.segments[len(l.segments)-1]
	if len(*last) <= cap(*last)*3/4 {
		*last = append(make([]entry, 0, len(*last)), *last...)
	}
}

// ownName returns name with the memory that the listing has for it, or as it is:
// a walk looks names up in the order in which they were listed, so few steps find
// it.
func (l *listing) ownName(name string) string {
	const steps = 32
	for i := l.next; i < min(l.size, l.next+steps); i++ {
		if own := l.at(i).Name; own == name {
			l.next = i + 1
			return own
		}
	}
	if l.size > 0 && l.at(0).Name == name { // from the start again
		l.next = 1
		return l.at(0).Name
	}
	return name
}

// remove makes position i a gap.
func (l *listing) remove(i int) {
	l.names.unused += int(l.entry(i).length)
	*l.entry(i) = entry{}
	l.count--
	l.gaps = append(l.gaps, uint32(i))
	if l.names.unused > max(l.names.size/2, largeBlock) {
		l.moveNames()
	}
}

// moveNames leaves the memory of names that are gone.
func (l *listing) moveNames() {
	old := l.names
	l.names = nameStore{}
	for i := range l.size {
		if e := l.entry(i); e.length > 0 {
			e.block, e.at = l.names.keep(old.get(e.block, e.at, e.length))
		}
	}
}

// set makes e the entry of its name, of many names only when they are looked at: to
// find out whether they have it was a fifth of the time for creating one more.
func (l *listing) set(e Dirent) {
	if l.table == nil && l.size >= segmentSize && len(l.late) < tableAfter {
		l.late = append(l.late, e)
		return
	}
	l.settle()
	l.put(e)
}

// settle does what set has left to be done.
func (l *listing) settle() {
	late := l.late
	l.late = nil
	for _, e := range late {
		l.put(e)
	}
}

func (l *listing) put(e Dirent) {
	if i, ok := l.position(e.Name); ok {
		at := l.entry(i)
		at.ino, at.typ = e.Ino, uint8(e.Type>>typeShift)
		return
	}
	l.add(e)
}

// position returns where name is.
func (l *listing) position(name string) (int, bool) {
	l.settle()
	if l.table == nil {
		if l.searches < tableAfter {
			return l.search(name)
		}
		l.makeTable()
	}
	mask := len(l.table) - 1
	for at := int(maphash.String(hashSeed, name)) & mask; l.table[at] != 0; at = (at + 1) & mask {
		if i := int(l.table[at] - 1); l.at(i).Name == name {
			return i, true
		}
	}
	return 0, false
}

// search returns where name is without a table.
func (l *listing) search(name string) (int, bool) {
	l.searches++
	for s, segment := range l.segments {
		for i := range segment {
			e := &segment[i]
			if int(e.length) == len(name) && l.names.get(e.block, e.at, e.length) == name {
				return s*segmentSize + i, true
			}
		}
	}
	return 0, false
}

// enter puts position i into the table. Places of names that are gone are free again
// when it is made anew.
func (l *listing) enter(i int) {
	if l.taken*4 > len(l.table)*3 {
		l.makeTable()
		return
	}
	l.taken++
	mask := len(l.table) - 1
	at := int(maphash.String(hashSeed, l.at(i).Name)) & mask
	for l.table[at] != 0 {
		at = (at + 1) & mask
	}
	l.table[at] = uint32(i + 1)
}

// makeTable makes the table anew, with room for as many entries more.
func (l *listing) makeTable() {
	size := 8
	for size < l.count*2 {
		size *= 2
	}
	l.table, l.taken = make([]uint32, size), 0
	for i := range l.size {
		if l.at(i).Name != "" {
			l.enter(i)
		}
	}
}

// update makes the names of now those of l, keeping the cookies of those that
// stay.
func (l *listing) update(now *listing) {
	l.settle()
	for i := range l.size {
		if name := l.at(i).Name; name != "" {
			if _, ok := now.position(name); !ok {
				l.remove(i)
			}
		}
	}
	for i := range now.size {
		if e := now.at(i); e.Name != "" {
			l.set(e)
		}
	}
}

// all returns the entries.
func (l *listing) all() []Dirent {
	l.settle()
	ents := make([]Dirent, 0, l.count)
	for i := range l.size {
		if e := l.at(i); e.Name != "" {
			ents = append(ents, e)
		}
	}
	return ents
}

// A nameStore holds names side by side, in blocks that are never moved.
type nameStore struct {
	blocks []*strings.Builder
	size   int // of all blocks
	unused int // bytes of names that are gone
}

// The last block wastes at most a quarter, and blocks are powers of two, see
// roomier; there can be enough of the largest ones for 64 GiB.
const (
	smallBlock = 128
	largeBlock = 1 << 20
)

func (s *nameStore) keep(name string) (block uint16, at uint32) {
	last := len(s.blocks) - 1
	if last < 0 || s.blocks[last].Cap()-s.blocks[last].Len() < len(name) {
		b := &strings.Builder{}
		b.Grow(powerOfTwo(max(min(s.size/8+1, largeBlock), smallBlock, len(name))))
		s.blocks = append(s.blocks, b)
		s.size += b.Cap()
		last++
	}
	b := s.blocks[last]
	at = uint32(b.Len())
	b.WriteString(name)
	return uint16(last), at
}

// powerOfTwo returns the lowest one that is not below n.
func powerOfTwo(n int) int { return 1 << bits.Len(uint(n-1)) }

func (s *nameStore) get(block uint16, at uint32, length uint8) string {
	return s.blocks[block].String()[at:][:length]
}
