package union

import (
	"hash/maphash"
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
// leaves a gap, a new one goes to the end; so a scan that removes or creates
// names on its way meets every other name exactly once.
//
// A directory may have millions of names, so entries are never moved, names lie
// side by side, and the table that finds them holds nothing but positions.
type listing struct {
	segments [][]Dirent // of segmentSize each, but for the last; Name is empty in a gap
	size     int        // of all, with gaps
	count    int        // of all, without
	table    []uint32   // positions plus 1, by the hashes of names, 0 is free; made when it is needed
	names    nameStore
}

const (
	firstCookie = 2
	segmentSize = 4096
)

func (l *listing) at(i int) *Dirent { return &l.segments[i/segmentSize][i%segmentSize] }

// add gives e, whose name l does not have, the next position.
func (l *listing) add(e Dirent) {
	last := len(l.segments) - 1
	if l.size%segmentSize == 0 {
		var segment []Dirent
		if last >= 0 {
			segment = make([]Dirent, 0, segmentSize)
		}
		l.segments = append(l.segments, segment)
		last++
	}
	l.segments[last] = append(l.segments[last], e)
	l.size++
	l.count++
	if l.table != nil {
		l.enter(l.size - 1)
	}
}

// remove makes position i a gap.
func (l *listing) remove(i int) {
	*l.at(i) = Dirent{}
	l.count--
}

// set makes e the entry of its name.
func (l *listing) set(e Dirent) {
	if i, ok := l.position(e.Name); ok {
		*l.at(i) = e
		return
	}
	l.add(e)
}

// position returns where name is.
func (l *listing) position(name string) (int, bool) {
	if l.table == nil {
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

// enter puts position i into the table. Positions that have become gaps stay in
// it until it grows.
func (l *listing) enter(i int) {
	if l.size*4 > len(l.table)*3 {
		l.makeTable()
		return
	}
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
	for size < l.size*2 {
		size *= 2
	}
	l.table = make([]uint32, size)
	for i := range l.size {
		if l.at(i).Name != "" {
			l.enter(i)
		}
	}
}

// update makes the names of now those of l, keeping the cookies of those that
// stay.
func (l *listing) update(now *listing) {
	for i := range l.size {
		if name := l.at(i).Name; name != "" {
			if _, ok := now.position(name); !ok {
				l.remove(i)
			}
		}
	}
	for i := range now.size {
		if e := now.at(i); e.Name != "" {
			l.set(*e)
		}
	}
}

// all returns the entries.
func (l *listing) all() []Dirent {
	ents := make([]Dirent, 0, l.count)
	for _, segment := range l.segments {
		for _, e := range segment {
			if e.Name != "" {
				ents = append(ents, e)
			}
		}
	}
	return ents
}

// A nameStore holds names side by side, in blocks that grow.
type nameStore struct {
	block *strings.Builder
	size  int
}

func (s *nameStore) keep(name []byte) string {
	if s.block == nil || s.block.Cap()-s.block.Len() < len(name) {
		s.size = min(max(2*s.size, 256), 64<<10)
		s.block = &strings.Builder{}
		s.block.Grow(s.size)
	}
	start := s.block.Len()
	s.block.Write(name)
	return s.block.String()[start:]
}
