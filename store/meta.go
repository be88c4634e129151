package store

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"plash/internal/errs"
	"plash/internal/rawjson"
)

// Meta is what is kept beside a layer. All but Made and Created holds for the
// whole image: Stack takes it over from the parent.
type Meta struct {
	Made    string    `json:"made,omitempty"` // how the layer was made: a plash command without the id, or macros' code
	Created time.Time `json:"created"`        // Stack sets it

	Entrypoint  []string `json:"entrypoint,omitempty"`
	DefaultArgs []string `json:"default_args,omitempty"` // used if none are given
	Env         []string `json:"env,omitempty"`          // NAME=VALUE
	EnvNames    []string `json:"env_names,omitempty"`    // taken from the host when it runs
	EnvPrefixes []string `json:"env_prefixes,omitempty"` // likewise, all that begin so
	Mounts      []string `json:"mounts,omitempty"`       // SRC[:DST] to bind when it runs
}

const metaFile = "_data/meta.json"

// Meta returns what is kept beside id's top layer.
func (s *Store) Meta(id ID) (Meta, error) {
	var m Meta
	node, err := s.NodePath(id)
	if err != nil {
		return m, err
	}
	file := filepath.Join(node, metaFile)
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return m, nil // the root image
	}
	if err == nil {
		err = rawjson.Unmarshal(text, &m)
	}
	return m, errs.Path(file, err)
}

func writeMeta(node string, m Meta) error {
	m.Created = time.Now()
	text, err := rawjson.Marshal(m)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(node, metaFile), append(text, '\n'), 0644)
}
