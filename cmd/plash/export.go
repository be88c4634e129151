package main

import (
	"os"

	"plash/exporters"
	"plash/union"
)

var exportCommands = []command{
	{name: "push:dir", aliases: []string{"copy"}, args: func() any { return new(pushDirCommand) }},
	{name: "push:tarfile", aliases: []string{"export-tar"}, args: func() any { return new(pushTarfileCommand) }},
}

type pushDirCommand struct {
	ID  string `arg:"" name:"ID"`
	Dir string `arg:"" name:"DIR"`
}

func (c *pushDirCommand) Run() error {
	return export(c.ID, func(u *union.Union) error { return exporters.Dir(u, c.Dir) })
}

type pushTarfileCommand struct {
	ID   string `arg:"" name:"ID"`
	File string `arg:"" optional:"" name:"FILE"`
}

func (c *pushTarfileCommand) Run() error {
	return export(c.ID, func(u *union.Union) error { return exporters.Tarfile(u, c.File, os.Stdout) })
}

// export calls write with the merged tree of the image called id.
func export(id string, write func(*union.Union) error) error {
	if err := becomeRoot(); err != nil {
		return err
	}
	_, image, err := openImage(id)
	if err != nil {
		return err
	}
	u, err := union.New(union.Config{Lowers: image.layers})
	if err != nil {
		return image.failed(err)
	}
	defer u.Close()
	return write(u)
}
