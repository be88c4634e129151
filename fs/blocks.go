package fs

import (
	"time"

	"plash/union"
)

// blocksDelay is how long the kernel may have a wrong st_blocks of a file that
// it wrote to. Of a file whose writes it collects it knows size and times by
// itself, but not that, until the file is closed: one that is created, written
// and kept open would have none, which "tar --sparse" takes for a hole. After the
// delay most files are closed, and their attributes asked for if anybody needs
// them. After an fsync(2) they are asked for at once, but not again meanwhile:
// a transaction of SQLite's write-ahead log takes 2.55 instead of 5.05 requests,
// since new attributes also have the kernel ask for the capability again.
const blocksDelay = 500 * time.Millisecond

// collected notes that the kernel has written to n what it had collected.
func (f *fileSystem) collected(n *union.Node) {
	if n.Clear(union.Told) {
		id, _ := n.ID()
		f.blocks.add(id)
	}
}

// askBlocks lets the kernel ask for the attributes of a node that it wrote to,
// unless it has done so.
func (f *fileSystem) askBlocks(id uint64) {
	n := f.node(id)
	if n == nil {
		return
	}
	n.Clear(union.Synced)
	if !n.Is(union.Told) {
		f.device.InvalidateAttributes(id)
	}
}

// synced notes that n has been synced.
func (f *fileSystem) synced(n *union.Node) {
	if !n.Is(union.Told | union.Synced) {
		n.Set(union.Synced)
		id, _ := n.ID()
		f.blocks.add(id)
		f.askAgain(n)
	}
}
