package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"plash/internal/errs"
	"plash/store"
	"plash/union"
)

var showCommands = []command{
	{name: "diff", args: func() any { return new(diffCommand) }},
	{name: "history", args: func() any { return new(historyCommand) }},
	{name: "ls", args: func() any { return new(lsCommand) }},
}

type diffCommand struct {
	ID string `arg:"" name:"ID"`
}

func (c *diffCommand) Run() error {
	if err := becomeRoot(); err != nil {
		return err
	}
	_, img, err := openImage(c.ID)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	err = union.Diff(img.layers, func(c union.Change, path string) error {
		_, err := fmt.Fprintf(out, "%c %s\n", c, oneLine(path))
		return errs.Path("standard output", err)
	})
	if err != nil {
		return img.failed(err)
	}
	return errs.Path("standard output", out.Flush())
}

type historyCommand struct {
	ID string `arg:"" name:"ID"`
}

func (c *historyCommand) Run() error {
	s, id, err := openID(c.ID, false)
	if err != nil {
		return err
	}
	var lines []string
	for id != 0 {
		meta, err := s.Meta(id)
		if err != nil {
			return err
		}
		lines = append(lines, fmt.Sprintf("%d\t%s\t%s", id, meta.Created.Format(time.RFC3339), oneLine(strings.TrimSuffix(meta.Made, "\n"))))
		if id, err = s.Parent(id); err != nil {
			return err
		}
	}
	slices.Reverse(lines)
	return printLine(strings.Join(lines, "\n"))
}

type lsCommand struct {
	JSON bool `name:"json"`
}

// listed is an image as ls shows it.
type listed struct {
	ID      store.ID  `json:"id"`
	Parent  store.ID  `json:"parent"`
	Size    int64     `json:"size"` // of its own layer, on the disk
	Created time.Time `json:"created"`
	Made    string    `json:"made"`
	Keys    []string  `json:"keys"`
}

func (c *lsCommand) Run() error {
	if err := becomeRoot(); err != nil { // to measure what belongs to subordinate ids
		return err
	}
	s, err := openStore()
	if err != nil {
		return err
	}
	list, err := listImages(s)
	if err != nil {
		return err
	}
	if c.JSON {
		out := json.NewEncoder(os.Stdout)
		out.SetEscapeHTML(false)
		out.SetIndent("", "  ")
		return errs.Path("standard output", out.Encode(list))
	}
	if len(list) == 0 {
		return nil
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "ID\tPARENT\tSIZE\tAGE\tKEYS\tMADE")
	printTree(out, list, 0, "")
	return errs.Path("standard output", out.Flush())
}

// listImages describes all images but those that are removed meanwhile.
func listImages(s *store.Store) ([]listed, error) {
	ids, err := s.Images()
	if err != nil {
		return nil, err
	}
	keys, err := s.Keys()
	if err != nil {
		return nil, err
	}
	list := []listed{} // [] in JSON
	for _, id := range ids {
		l := listed{ID: id, Keys: keys[id]}
		if l.Keys == nil {
			l.Keys = []string{}
		}
		meta, err := s.Meta(id)
		if err == nil {
			l.Made, l.Created = meta.Made, meta.Created
			l.Parent, err = s.Parent(id)
		}
		if err == nil {
			l.Size, err = s.Size(id)
		}
		if err != nil && s.Check(id) == nil {
			return nil, err
		}
		if err == nil {
			list = append(list, l)
		}
	}
	return list, nil
}

// printTree prints the images whose parent is given, and below each, further
// to the right, those that are stacked on it.
func printTree(out *tabwriter.Writer, list []listed, parent store.ID, indent string) {
	for _, l := range list {
		if l.Parent != parent {
			continue
		}
		fmt.Fprintf(out, "%s%d\t%d\t%s\t%s\t%s\t%s\n", indent, l.ID, l.Parent, size(l.Size), age(time.Since(l.Created)),
			givenKeys(l.Keys), shorten(oneLine(strings.TrimSuffix(l.Made, "\n"))))
		printTree(out, list, l.ID, indent+"  ")
	}
}

// isOwnKey reports whether key is one of plash's caches or of a session.
func isOwnKey(key string) bool {
	hash := key[strings.LastIndexByte(key, ':')+1:]
	return strings.HasPrefix(key, "session:") || len(hash) == 64 && strings.Trim(hash, "0123456789abcdef") == ""
}

// givenKeys returns in one word the keys that say something to people.
func givenKeys(keys []string) string {
	var given []string
	for _, key := range keys {
		if !isOwnKey(key) {
			given = append(given, oneLine(key))
		}
	}
	if len(given) == 0 {
		return "-"
	}
	return strings.ReplaceAll(strings.Join(given, ","), " ", `\x20`)
}

// shorten cuts text off where it would fill more than a line.
func shorten(text string) string {
	const most = 60
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}

// size writes bytes as du -h does: 4.0K, 12M.
func size(bytes int64) string {
	value, units := float64(bytes), "BKMGTPE"
	for value >= 1024 && len(units) > 1 {
		value, units = value/1024, units[1:]
	}
	if value < 10 && units[0] != 'B' {
		return fmt.Sprintf("%.1f%c", value, units[0])
	}
	return fmt.Sprintf("%.0f%c", value, units[0])
}

// age writes a time span in its largest unit: 40s, 3m, 5h, 12d.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%.0fs", max(0, d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// oneLine writes text in one line and without a byte that a terminal would
// act on, in the way that printf %b reads: \n, \t, \\ and \xHH.
func oneLine(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\\':
			b.WriteString(`\\`)
		case unicode.IsPrint(r) && (r != utf8.RuneError || n > 1):
			b.WriteRune(r)
		default:
			for _, c := range []byte(text[:n]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		}
		text = text[n:]
	}
	return b.String()
}
