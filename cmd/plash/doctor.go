package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"

	"plash/internal/errs"
	"plash/launcher"
	"plash/store"
)

type doctorCommand struct {
	JSON bool `name:"json"`
}

// Run prints what this place allows; without containers it ends with an error.
func (c *doctorCommand) Run() error {
	dir, err := probeDir()
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	findings := launcher.Probe(dir)
	if err := c.print(findings); err != nil {
		return err
	}
	for _, f := range findings {
		if f.Name == launcher.Containers && !f.OK {
			return errors.New("no container can run here: " + f.Detail)
		}
	}
	return nil
}

func (c *doctorCommand) print(findings []launcher.Finding) error {
	if c.JSON {
		out := json.NewEncoder(os.Stdout)
		out.SetEscapeHTML(false)
		out.SetIndent("", "  ")
		return errs.Path("standard output", out.Encode(findings))
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		answer := "no"
		if f.OK {
			answer = "yes"
		}
		fmt.Fprintf(out, "%s\t%s\t%s\n", f.Name, answer, f.Detail)
	}
	return errs.Path("standard output", out.Flush())
}

// probeDir makes an empty directory on the data directory's file system,
// without making a data directory.
func probeDir() (string, error) {
	data, err := store.DefaultDir()
	if err != nil {
		return "", err
	}
	where, err := filepath.Abs(data)
	if err != nil {
		return "", errs.Path(data, err)
	}
	for {
		dir, err := os.MkdirTemp(where, ".plash-doctor-")
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, os.ErrNotExist) || where == "/" {
			return "", errs.Path(where, err)
		}
		where = filepath.Dir(where)
	}
}
