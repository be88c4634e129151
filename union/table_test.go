package union

import (
	"math/rand/v2"
	"testing"
)

// TestTable: whatever nodes come, go and get other keys, the table finds those
// that are there, by each of their keys, and no others.
func TestTable(t *testing.T) {
	var table table
	var root Node
	table.ids.add(&root)
	r := rand.New(rand.NewPCG(1, 2))
	found := map[key]*Node{}
	var nodes []*Node
	newKey := func() key {
		for {
			k := key{layer: uint16(r.UintN(3)), dev: uint16(r.UintN(2)), ino: r.Uint64N(1 << 14)}
			if found[k] == nil && k != (key{}) {
				return k
			}
		}
	}
	check := func(k key) {
		t.Helper()
		n := table.get(k)
		if n != found[k] {
			t.Fatalf("%v: found %v, want %v", k, n, found[k])
		}
		if n != nil {
			n.refs.Add(-1)
		}
	}
	for step := range 200_000 {
		// Many come, then most go, and so on.
		grow, r10 := step/20_000%2 == 0, r.IntN(10)
		switch {
		case r10 == 0 && len(nodes) > 0:
			n := nodes[step%len(nodes)]
			if n.has().low != (key{}) {
				continue
			}
			old, k, keep := n.key, newKey(), step%3 == 0
			if keep {
				n.needs().low = old
			}
			table.rekey(n, k)
			check(old)
			if !keep {
				table.removeLow(old, n)
				delete(found, old)
			}
			found[k] = n
			check(old)
			check(k)
		case (r10 < 8) == grow || len(nodes) == 0:
			n := &Node{key: newKey()}
			n.refs.Store(1)
			table.ids.add(n)
			if table.add(n, nil) != n {
				t.Fatal("not added")
			}
			found[n.key] = n
			nodes = append(nodes, n)
			stale := &Node{key: key{ino: 1 << 40}}
			if table.add(stale, func() bool { return true }) != nil || table.get(stale.key) != nil {
				t.Fatal("a stale node was added")
			}
			if got := table.add(&Node{key: n.key}, nil); got != n || n.refs.Add(-1) != 1 {
				t.Fatal("another node was added with the same key")
			}
		default:
			i := step % len(nodes)
			n := nodes[i]
			nodes[i] = nodes[len(nodes)-1]
			nodes = nodes[:len(nodes)-1]
			n.refs.Store(forgotten)
			k, low := n.key, n.has().low
			delete(found, k)
			delete(found, low)
			check(k)
			if step%2 == 0 { // found again meanwhile
				again := &Node{key: k}
				again.refs.Store(1)
				table.ids.add(again)
				if table.add(again, nil) != again {
					t.Fatal("a forgotten node is in the way")
				}
				found[k] = again
				nodes = append(nodes, again)
			}
			table.remove(n, k, low)
			table.ids.remove(n)
			check(k)
			check(low)
		}
		check(key{layer: uint16(r.UintN(3)), dev: uint16(r.UintN(2)), ino: r.Uint64N(1 << 14)})
	}
	for k := range found {
		check(k)
	}
	for _, n := range nodes {
		table.remove(n, n.key, n.has().low)
	}
	for i := range table.shards {
		if s := &table.shards[i]; s.count != 0 || len(s.slots) > fewSlots || s.lows != nil {
			t.Fatalf("%d nodes, %d slots and %d lows are left", s.count, len(s.slots), len(s.lows))
		}
	}
}
