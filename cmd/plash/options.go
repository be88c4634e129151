package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"plash/launcher"
)

// placeOptions change what a program finds around it.
type placeOptions struct {
	Bind           []string `name:"bind" sep:"none" placeholder:"SRC[:DST[:ro]]"`
	NoDefaultBinds bool     `name:"no-default-binds"`
	Workdir        string   `name:"workdir" placeholder:"DIR"`
}

// runOptions are placeOptions and variables. In front of macros there are no
// such: there --env is a macro.
type runOptions struct {
	placeOptions
	Env []string `name:"env" sep:"none" placeholder:"NAME[=VALUE]"`
}

// apply puts the options into config.
func (o *placeOptions) apply(config *launcher.Config) error {
	config.NoDefaultBinds = o.NoDefaultBinds
	config.Workdir = o.Workdir
	for _, text := range o.Bind {
		bind, err := parseBind(text)
		if err != nil {
			return fmt.Errorf("--bind: %w", err)
		}
		config.Binds = append(config.Binds, bind)
	}
	return nil
}

// apply puts the options into config.
func (o *runOptions) apply(config *launcher.Config) error {
	for _, text := range o.Env {
		name, _, set := strings.Cut(text, "=")
		if name == "" {
			return fmt.Errorf("--env: %q: a variable's name is missing", text)
		}
		if set {
			config.Env = append(config.Env, text)
		} else if value, ok := os.LookupEnv(name); ok {
			config.Env = append(config.Env, name+"="+value)
		}
	}
	return o.placeOptions.apply(config)
}

// parseBind reads SRC[:DST[:ro]]. Without DST it is where SRC is on the host.
func parseBind(text string) (launcher.Bind, error) {
	parts := strings.Split(text, ":")
	bind := launcher.Bind{Src: parts[0]}
	if len(parts) > 1 {
		bind.Dst = parts[1]
	}
	switch {
	case len(parts) == 3 && parts[2] == "ro":
		bind.ReadOnly = true
	case len(parts) > 2:
		return bind, fmt.Errorf("%s: not SRC[:DST[:ro]]", text)
	}
	switch {
	case bind.Src == "":
		return bind, errors.New("a path on the host is missing")
	case bind.Dst != "" && !path.IsAbs(bind.Dst):
		return bind, fmt.Errorf("%s: not an absolute path in the image", bind.Dst)
	}
	return bind, nil
}
