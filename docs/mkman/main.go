// Command mkman writes the manual pages, made of docs/commands.md and the
// macros' table, into a directory:
//
//	go run ./docs/mkman VERSION DIR
//
// plash(1) is about plash as a whole, plash-NAME(1) about a command. The format
// is that of the man macros, groff_man(7).
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"plash/docs"
	"plash/macros"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: mkman VERSION DIR")
		os.Exit(1)
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "mkman:", err)
		os.Exit(1)
	}
}

func write(version, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, page := range pages(version) {
		if err := os.WriteFile(filepath.Join(dir, name+".1"), []byte(page), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// pages returns all pages by their names.
func pages(version string) map[string]string {
	all := map[string]string{"plash": overview(version)}
	for _, s := range docs.Sections() {
		if !strings.HasPrefix(s.Name, "-") {
			all["plash-"+s.Name] = page(version, s)
		}
	}
	return all
}

// page returns the page about a command.
func page(version string, s docs.Section) string {
	var b strings.Builder
	head(&b, version, "plash-"+s.Name, s.Summary)
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", escape("plash "+s.Synopsis))
	if s.Text != "" {
		b.WriteString(".SH DESCRIPTION\n")
		body(&b, s.Text)
	}
	b.WriteString(".SH SEE ALSO\n.BR plash (1)\n")
	return b.String()
}

// overview returns the page about plash.
func overview(version string) string {
	var b strings.Builder
	head(&b, version, "plash", "build and run layered root filesystems")
	b.WriteString(".SH SYNOPSIS\n.B plash\n[\\fB\\-v\\fR] \\fICOMMAND\\fR [\\fIARG\\fR…]\n.PP\n.B plash \\-\\-\\fIMACRO\\fR \\fIARG\\fR… … [\\fB\\-\\-\\fR \\fICMD\\fR…]\n.SH DESCRIPTION\n")
	body(&b, docs.Intro())
	group := ""
	for _, s := range docs.Sections() {
		if s.Group != group {
			group = s.Group
			fmt.Fprintf(&b, ".SH %s\n", escape(strings.ToUpper(group)))
		}
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", escape("plash "+s.Synopsis), escape(s.Summary))
		if strings.HasPrefix(s.Name, "-") {
			b.WriteString(".IP\n")
			body(&b, s.Text)
		}
	}
	b.WriteString(".SH MACROS\n")
	for line := range strings.Lines(macros.Help()) {
		form, help, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  -  ")
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", escape(form), escape(help))
	}
	b.WriteString(".SH SEE ALSO\nEach command has a page: for\n.B plash run\nit is\n.BR plash\\-run (1).\n")
	return b.String()
}

func head(b *strings.Builder, version, name, summary string) {
	fmt.Fprintf(b, ".TH %s 1 \"\" \"plash %s\" \"plash\"\n.SH NAME\n%s \\- %s\n", escape(strings.ToUpper(name)), escape(version), escape(name), escape(summary))
}

// body writes text as docs/commands.md has it: paragraphs, code that is
// indented by four blanks, and lists.
func body(b *strings.Builder, text string) {
	for i, part := range strings.Split(strings.TrimSpace(text), "\n\n") {
		part = strings.Trim(part, "\n")
		switch {
		case strings.HasPrefix(part, "    "):
			b.WriteString(".PP\n.RS 4\n.nf\n")
			for line := range strings.SplitSeq(part, "\n") {
				b.WriteString(escape(strings.TrimPrefix(line, "    ")) + "\n")
			}
			b.WriteString(".fi\n.RE\n")
		case strings.HasPrefix(part, "- "):
			for item := range strings.SplitSeq(part[2:], "\n- ") {
				form, text, _ := strings.Cut(item, "`: ")
				b.WriteString(".TP\n" + inline(form+"`") + "\n" + inline(unwrap(text)) + "\n")
			}
		default:
			if i > 0 {
				b.WriteString(".PP\n")
			}
			b.WriteString(inline(unwrap(part)) + "\n")
		}
	}
}

// unwrap joins the lines of a paragraph.
func unwrap(text string) string { return strings.Join(strings.Fields(text), " ") }

// inline writes what is between backquotes in bold.
func inline(text string) string {
	var b strings.Builder
	for i, part := range strings.Split(text, "`") {
		if i%2 == 1 {
			b.WriteString(`\fB` + escape(part) + `\fR`)
		} else {
			b.WriteString(escape(part))
		}
	}
	line := b.String()
	if strings.HasPrefix(line, `\fB`) {
		line = `\&` + line
	}
	return line
}

// escape writes text so that nothing in it is a request or another character.
func escape(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", "\\`", "^", `\(ha`, "~", `\(ti`, `"`, `\(dq`).Replace(text)
	if strings.HasPrefix(text, ".") {
		text = `\&` + text
	}
	return text
}
