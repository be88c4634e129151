// Command bench measures plash beside kernel overlayfs, fuse-overlayfs and
// unionfs-fuse: each mounts the same layers, writable, and the same programs run
// in it. The rounds of all are interleaved, so that what else the machine does hits
// all alike. It prints the medians and their ratios to the kernel's, and which
// rows miss what is demanded of plash. README.md says how to read them.
//
// Only root can run it, for cold caches. With -user the mounts and all that
// runs in them are an ordinary user's, who is root of a user namespace.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// A config is what the command line says.
type config struct {
	Dir     string // for layers and mounts; its file system is measured too
	Plash   string
	Fuse2   string // fuse-overlayfs 2.x, if there
	Only    string // regular expression: rows to measure
	Without string // likewise: contenders to leave out
	Rounds  int
	Quick   bool
	Trace   bool   // count requests only
	GoRoot  string // the Go toolchain that is built with
	User    string // an ordinary user's name; "" is root
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "work" {
		fail(work(os.Args[2], os.Args[3:]))
		return
	}
	if text := os.Getenv(agentEnv); text != "" {
		fail(agentMain(text))
		return
	}
	var c config
	flag.StringVar(&c.Dir, "dir", "", "make the layers in this `directory`, or take them from there, and leave them there (else a temporary one)")
	flag.StringVar(&c.Fuse2, "fuse-overlayfs2", "", "`path` of fuse-overlayfs 2.x")
	flag.StringVar(&c.Only, "only", "", "measure only the rows and groups that match this `pattern`, a regular expression")
	flag.StringVar(&c.Without, "without", "", "leave out the contenders that match this `pattern`")
	flag.IntVar(&c.Rounds, "rounds", 0, "`number` of rounds, of which the medians are taken (else 5, with -quick 3)")
	flag.BoolVar(&c.Quick, "quick", false, "the most telling rows only, without unionfs-fuse, and count no requests")
	flag.BoolVar(&c.Trace, "trace", false, "time nothing, print the requests of each row by opcode")
	flag.StringVar(&c.User, "user", "", "measure as this user, with subordinate ids, in a user namespace")
	out := flag.String("json", "", "write the results to this `file` too")
	show := flag.Bool("show", false, "measure nothing: print the results in the given JSON files; of the same row the last")
	markdown := flag.Bool("markdown", false, "print Markdown")
	charts := flag.String("svg", "", "with -show: draw charts into this `directory`")
	flag.Parse()
	if *show {
		fail(showMain(flag.Args(), *markdown, *charts))
		return
	}
	if flag.NArg() != 1 || c.Rounds < 0 {
		fmt.Fprintln(os.Stderr, "usage: bench [options] PLASH\n       bench -show [-markdown] [-svg DIR] FILE…")
		flag.PrintDefaults()
		os.Exit(1)
	}
	c.Plash = flag.Arg(0)
	if root, err := exec.Command("go", "env", "GOROOT").Output(); err == nil {
		c.GoRoot = strings.TrimSpace(string(root))
	}
	fail(measureMain(c, *out, *markdown))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// measureMain measures and prints; the results go to the file out, if any.
func measureMain(c config, out string, markdown bool) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root, for cold caches; -user NAME measures as an ordinary user")
	}
	for _, pattern := range []string{c.Only, c.Without} {
		if _, err := regexp.Compile(pattern); err != nil {
			return err
		}
	}
	if c.Rounds == 0 && c.Quick {
		c.Rounds = 3
	} else if c.Rounds == 0 {
		c.Rounds = 5
	}
	if c.Dir == "" {
		dir, err := os.MkdirTemp("", "plash-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		c.Dir = dir
	}
	var err error
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	res, err := measure(ctx, c)
	if len(res.Rows) > 0 {
		if out != "" {
			text, _ := json.MarshalIndent(res, "", " ")
			err = errors.Join(err, os.WriteFile(out, append(text, '\n'), 0o644))
		}
		if c.Trace {
			res.printRequests(os.Stdout)
		} else {
			res.print(os.Stdout, markdown)
		}
	}
	return err
}

func showMain(files []string, markdown bool, charts string) error {
	all, err := readResults(files)
	if err != nil {
		return err
	}
	for _, res := range all {
		res.print(os.Stdout, markdown)
	}
	if charts != "" {
		return drawCharts(charts, all)
	}
	return nil
}
