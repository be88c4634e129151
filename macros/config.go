package macros

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"plash/internal/errs"
	"plash/store"
)

// configure returns the image that is equal to id but has what the program
// wants to be kept beside it: id itself if it has it already, else an empty
// layer on top of it. That way the layers are shared with all programs of the
// same code, whatever they keep beside them.
func (p *Program) configure(s *store.Store, id store.ID, may bool) (store.ID, error) {
	has, err := s.Meta(id)
	if err != nil {
		return 0, err
	}
	has.Made, has.Created = "", time.Time{}
	want := has
	if p.entrypoint != nil {
		want.Entrypoint, want.DefaultArgs = p.entrypoint, nil
	}
	want.Env = merge(has.Env, p.env)
	want.EnvNames = merge(has.EnvNames, p.envNames)
	want.EnvPrefixes = merge(has.EnvPrefixes, p.envPrefixes)
	if reflect.DeepEqual(has, want) {
		return id, nil
	}
	text, err := json.Marshal(want)
	if err != nil {
		return 0, err
	}
	return cached(s, buildKey(id, string(text)), may, func() (store.ID, error) {
		temp, err := s.TempDir()
		if err != nil {
			return 0, err
		}
		defer temp.Remove()
		empty := filepath.Join(temp.Path, "data")
		if err := os.Mkdir(empty, 0o755); err != nil {
			return 0, errs.Path(empty, err)
		}
		return s.StackMeta(id, empty, want)
	})
}

// merge returns has with the values of added that are new; of a variable, the
// new value takes the old one's place.
func merge(has, added []string) []string {
	for _, value := range added {
		if slices.Contains(has, value) {
			continue
		}
		name, _, _ := strings.Cut(value, "=")
		has = slices.DeleteFunc(slices.Clone(has), func(old string) bool {
			return strings.HasPrefix(old, name+"=")
		})
		has = append(has, value)
	}
	return has
}
