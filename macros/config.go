package macros

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"plash/internal/errs"
	"plash/internal/rawjson"
	"plash/store"
)

// entrypoint keeps words as they are; a single one with blanks in it is shell
// text, to which the command line's arguments are added.
func entrypoint(e *eval, args []string) error {
	if len(args) == 1 && strings.ContainsAny(args[0], " \t\n") {
		args = []string{"/bin/sh", "-c", args[0] + ` "$@"`, "sh"}
	}
	e.program.Config.Entrypoint = args
	return nil
}

// entrypointPath is where --entrypoint-script puts its script.
const entrypointPath = "/entrypoint"

func entrypointScript(e *eval, lines []string) error {
	if len(lines) == 0 {
		return errors.New("an empty script: it takes lines")
	}
	if !strings.HasPrefix(lines[0], "#!") {
		lines = append([]string{"#!/bin/sh"}, lines...)
	}
	e.program.Config.Entrypoint = []string{entrypointPath}
	return writeScript(e, append([]string{entrypointPath}, lines...))
}

func env(e *eval, args []string) error {
	for _, arg := range args {
		name, _, _ := strings.Cut(arg, "=")
		if err := checkName(name); err != nil {
			return err
		}
	}
	e.program.Config.Env = append(e.program.Config.Env, args...)
	return nil
}

func envPrefix(e *eval, args []string) error {
	for _, arg := range args {
		if err := checkName(arg); err != nil {
			return err
		}
	}
	e.program.Config.EnvPrefixes = append(e.program.Config.EnvPrefixes, args...)
	return nil
}

// mount keeps SRC[:DST]. A relative SRC is meant as seen from here.
func mount(e *eval, args []string) error {
	for _, arg := range args {
		src, dst, both := strings.Cut(arg, ":")
		if src == "" || both && !filepath.IsAbs(dst) {
			return fmt.Errorf("%s: must be SRC or SRC:DST, and DST begin with a slash", arg)
		}
		abs, err := filepath.Abs(src)
		if err != nil {
			return errs.Path(src, err)
		}
		if strings.Contains(abs, ":") {
			return fmt.Errorf("%s: a path with a colon cannot be written as SRC:DST", abs)
		}
		if both {
			dst = filepath.Clean(dst)
			abs += ":" + dst
		}
		if dst == "/" || !both && abs == "/" {
			return fmt.Errorf("%s: nothing can be bound over the image's root", arg)
		}
		e.program.Config.Mounts = append(e.program.Config.Mounts, abs)
	}
	return nil
}

// configure returns the image that is equal to id but has c kept beside it: id
// itself if it has it already, else an empty layer on top of it. That way the
// layers are shared with all programs of the same code, whatever they keep
// beside them.
func (b *Builder) configure(id store.ID, c *Config) (store.ID, error) {
	has, err := b.Store.Meta(id)
	if err != nil {
		return 0, err
	}
	has.Made, has.Created = "", time.Time{}
	want := c.addTo(has)
	if reflect.DeepEqual(has, want) {
		return id, nil
	}
	text, err := rawjson.Marshal(want)
	if err != nil {
		return 0, err
	}
	want.Made = c.String()
	return b.cached(buildKey(id, string(text)), func() (store.ID, error) {
		return b.Store.StackEmpty(id, want)
	})
}

// addTo returns m with what c says. What is there already keeps its place.
func (c *Config) addTo(m store.Meta) store.Meta {
	if c.Entrypoint != nil {
		m.Entrypoint, m.DefaultArgs = c.Entrypoint, nil
	}
	for _, entry := range c.Env {
		to, from := &m.EnvNames, &m.Env
		if strings.Contains(entry, "=") {
			to, from = from, to
		}
		*to = add(*to, entry, variable)
		*from = remove(*from, variable(entry), variable)
	}
	for _, prefix := range c.EnvPrefixes {
		m.EnvPrefixes = add(m.EnvPrefixes, prefix, variable)
	}
	for _, entry := range c.Mounts {
		m.Mounts = add(m.Mounts, entry, mountpoint)
	}
	return m
}

// variable returns the name in NAME or NAME=VALUE.
func variable(entry string) string {
	name, _, _ := strings.Cut(entry, "=")
	return name
}

// mountpoint returns where SRC or SRC:DST is mounted.
func mountpoint(entry string) string { return entry[strings.Index(entry, ":")+1:] }

// add returns list with entry in place of the one of the same name. The list
// itself stays as it is.
func add(list []string, entry string, name func(string) string) []string {
	if slices.Contains(list, entry) {
		return list
	}
	return append(remove(list, name(entry), name), entry)
}

// remove returns list without what is called so. The list itself stays as it
// is.
func remove(list []string, called string, name func(string) string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(old string) bool { return name(old) == called })
}

// String returns macros that say the same.
func (c *Config) String() string {
	var words []string
	for _, m := range []struct {
		name string
		args []string
	}{
		{"--entrypoint", c.Entrypoint}, {"--env", c.Env}, {"--env-prefix", c.EnvPrefixes}, {"--mount", c.Mounts},
	} {
		if len(m.args) > 0 {
			words = append(words, m.name, quoteAll(m.args))
		}
	}
	return strings.Join(words, " ")
}
