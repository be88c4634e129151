package union

import (
	"math/rand/v2"
	"testing"
)

// TestOrigins: whatever numbers come and go, those that are there are found, and
// only those that are not stored elsewhere as well stay when they are forgotten.
func TestOrigins(t *testing.T) {
	var o origins
	type entry struct {
		shown  uint64
		stored bool
	}
	model := map[uint64]entry{}
	r := rand.New(rand.NewPCG(1, 2))
	for step := range 200_000 {
		upper, shown, stored := r.Uint64N(1<<13), r.Uint64()|1<<63, r.IntN(20) > 0
		switch grow := step/20_000%2 == 0; {
		case grow == (r.IntN(5) > 0):
			o.set(upper, shown, stored)
			model[upper] = entry{shown, stored}
		case r.IntN(4) == 0:
			o.forget(key{layer: 1, ino: upper}) // a lower object's
			o.drop(upper)
			delete(model, upper)
		default:
			o.forget(key{ino: upper})
			if model[upper].stored {
				delete(model, upper)
			}
		}
		upper = r.Uint64N(1 << 13)
		got, ok := o.get(upper)
		if want, there := model[upper]; got != want.shown || ok != there {
			t.Fatalf("step %d: %d shows %d, %v, want %d, %v", step, upper, got, ok, want.shown, there)
		}
	}
	for upper := range model {
		o.drop(upper)
	}
	for i := range o.shards {
		if s := &o.shards[i]; len(s.shown) != 0 || len(s.unstored) != 0 || s.peak > 64 {
			t.Fatalf("%d and %d are left, of %d", len(s.shown), len(s.unstored), s.peak)
		}
	}
}
