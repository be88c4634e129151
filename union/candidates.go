package union

import (
	"hash/maphash"
	"slices"

	"plash/internal/layerindex"
)

// In a directory that many layers share, even a search that costs no system
// call would take a step for each. So what is often searched gets a filter,
// which knows the few layers whose index may have a name.
type filter struct {
	lowers     *[]*layerDir // what it is of, as in dirState
	distrusted uint32       // how many indexes had been given up
	// names holds a hash of each name of the indexed directories and, in its
	// lowest bits, the position of its layer in lowers; ascending.
	names []uint64
	rest  []int // the positions of the other directories
}

const (
	positionBits = 16
	positionMask = 1<<positionBits - 1
	// fewLayers are searched one after the other.
	fewLayers = 4
)

var hashSeed = maphash.MakeSeed()

// candidates appends the directories of lower layers in which name may be, the
// topmost first.
func (u *Union) candidates(list []*layerDir, d *dirState, name string) []*layerDir {
	p := d.lowers.Load()
	lowers := *p
	if len(lowers) <= fewLayers {
		return append(list, lowers...)
	}
	f := d.filter.Load()
	if f == nil || f.lowers != p || f.distrusted != u.distrusted.Load() {
		if f = u.newFilter(d, p); f == nil {
			return append(list, lowers...)
		}
		d.filter.Store(f)
	}
	rest := f.rest
	hash := maphash.String(hashSeed, name) &^ positionMask
	i, _ := slices.BinarySearch(f.names, hash)
	for ; i < len(f.names) && f.names[i]&^positionMask == hash; i++ {
		at := int(f.names[i] & positionMask)
		for len(rest) > 0 && rest[0] < at {
			list, rest = append(list, lowers[rest[0]]), rest[1:]
		}
		list = append(list, lowers[at])
	}
	for _, at := range rest {
		list = append(list, lowers[at])
	}
	return list
}

// newFilter makes a filter once that is cheaper than what has been searched
// without one so far.
func (u *Union) newFilter(d *dirState, p *[]*layerDir) *filter {
	lowers := *p
	n := int(d.searched.Add(1))
	if n&(n-1) != 0 || n < fewLayers || len(lowers) > positionMask {
		return nil
	}
	f := &filter{lowers: p, distrusted: u.distrusted.Load()}
	total := 0
	indexes := make([]*layerindex.Index, len(lowers))
	for at, ld := range lowers {
		x := ld.useIndex(u)
		if x == nil {
			f.rest = append(f.rest, at)
			continue
		}
		names, err := x.Len(ld.block)
		if err != nil {
			u.distrust(ld.layer)
			return nil
		}
		indexes[at] = x
		total += names
	}
	if total > n*len(lowers) {
		return nil
	}
	f.names = make([]uint64, 0, total)
	for at, x := range indexes {
		if x == nil {
			continue
		}
		err := x.All(lowers[at].block, func(name []byte, _ layerindex.Entry) {
			f.names = append(f.names, maphash.Bytes(hashSeed, name)&^positionMask|uint64(at))
		})
		if err != nil {
			u.distrust(lowers[at].layer)
			return nil
		}
	}
	slices.Sort(f.names)
	return f
}
