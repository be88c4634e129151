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
// them.
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
	if n := f.node(id); n != nil && !n.Is(union.Told) {
		f.device.InvalidateAttributes(id)
	}
}
