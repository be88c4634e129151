package fs

import (
	"testing"
	"time"
)

// Who adds a node does not wait for what is done, but the end does, and lets
// nothing more be done.
func TestLater(t *testing.T) {
	begun, goOn := make(chan uint64), make(chan struct{})
	l := later{delay: time.Millisecond, do: func(node uint64) {
		begun <- node
		<-goOn
	}}
	l.add(1)
	if node := <-begun; node != 1 {
		t.Errorf("done for %d", node)
	}
	added := make(chan struct{})
	go func() {
		l.add(2)
		close(added)
	}()
	select {
	case <-added:
	case <-time.After(10 * time.Second):
		t.Fatal("add waits for what is done")
	}
	ended := make(chan struct{})
	go func() {
		l.end()
		close(ended)
	}()
	for !l.ended.Load() {
		time.Sleep(time.Millisecond)
	}
	select {
	case <-ended:
		t.Error("the end does not wait")
	case <-time.After(20 * time.Millisecond):
	}
	close(goOn)
	<-ended
	select {
	case node := <-begun:
		t.Errorf("done for %d after the end", node)
	case <-time.After(20 * time.Millisecond):
	}
}
