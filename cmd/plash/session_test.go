package main

import (
	"strings"
	"testing"
)

// TestCommandsForRecall: which commands get the session's last id, and what of
// which is remembered.
func TestCommandsForRecall(t *testing.T) {
	for _, c := range []struct {
		names               string
		takesID, makesImage bool
	}{
		{"build create stack add-layer check", true, true},
		{"run run:persist runb mount mounted with-mount id parent nodepath rm diff history runopts push:dir push:tarfile copy export-tar", true, false},
		{"pull:host pull:tarfile pull:url pull:lxc import-tar import-lxc", false, true},
		{"map data clean purge sudo chroot mkdtemp init shrink ls umount cache recall do noid b eval", false, false},
	} {
		for _, name := range strings.Fields(c.names) {
			command := find(name)
			if command == nil {
				t.Errorf("no such command: %s", name)
			} else if command.takesID() != c.takesID || command.makesImage() != c.makesImage {
				t.Errorf("%s: takes an id: %v, makes an image: %v", name, command.takesID(), command.makesImage())
			}
		}
	}
}
