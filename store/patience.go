package store

import (
	"errors"
	"time"
)

// patience is how long to wait for the file system server of a container that
// has just ended: it may be a moment behind it.
const patience = 2 * time.Second

// errBusy is about a directory that somebody has a lock on.
var errBusy = errors.New("in use")

// patiently calls f until what it needs is not in use any more, or patience
// ends.
func patiently(f func() error) error {
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err := f()
		if !errors.Is(err, ErrInUse) && !errors.Is(err, errBusy) || time.Since(begin) > patience {
			return err
		}
	}
}

// staysInUse reports whether the directory path does not get free within a
// moment.
func staysInUse(path string) bool {
	return patiently(func() error {
		if inUse(path) {
			return errBusy
		}
		return nil
	}) != nil
}
