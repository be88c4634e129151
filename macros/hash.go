package macros

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"plash/internal/errs"
)

// HashPath returns a hash, in hexadecimal digits, that changes whenever what
// is at path changes: the names below it, types, modes, content and link
// targets, but not times, owners or inodes.
func HashPath(path string) (string, error) {
	hash := sha256.New()
	// path itself may be a symlink, and stands for what it points to.
	root, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", errs.Path(path, err)
	}
	err = filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return errs.Path(file, err)
		}
		info, err := entry.Info()
		if err != nil {
			return errs.Path(file, err)
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		// Every piece has its length before it, so that no two trees
		// come to the same bytes.
		fmt.Fprintf(hash, "%d %s %o ", len(name), name, info.Mode())
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(file)
			if err != nil {
				return errs.Path(file, err)
			}
			fmt.Fprintf(hash, "%d %s", len(target), target)
		case info.Mode().IsRegular():
			f, err := os.Open(file)
			if err != nil {
				return errs.Path(file, err)
			}
			defer f.Close()
			content := sha256.New()
			if _, err := io.Copy(content, f); err != nil {
				return errs.Path(file, err)
			}
			hash.Write(content.Sum(nil))
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
