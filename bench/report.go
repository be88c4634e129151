package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// print prints the table: milliseconds of the base and of plash, all others as
// ratios to the base.
func (res *results) print(w io.Writer, markdown bool) {
	who := "root"
	if res.User {
		who = "an ordinary user, in a user namespace"
	}
	var versions []string
	for _, name := range slices.Sorted(maps.Keys(res.Versions)) {
		versions = append(versions, name+" "+res.Versions[name])
	}
	fmt.Fprintf(w, "As %s, %s, on %s: %s\n\n", who, res.Date, res.Machine, strings.Join(versions, ", "))
	head := []string{"row", "kernel ms", "f-o 1", "f-o 2", "unionfs", "union", "plash", "plash ms", "at most", ""}
	var lines [][]string
	misses := 0
	for _, m := range res.Rows {
		own, base := m.get(ours), m.get(m.Base)
		mark := strings.Join(res.misses(m), ", ")
		if mark != "" {
			misses++
		}
		name := m.Name
		if m.Base != kernel {
			name += " (" + m.Base + ")"
		}
		lines = append(lines, []string{name, ms(base.Seconds), m.get(fuse1).ratio(), m.get(fuse2).ratio(), m.get(unionfs).ratio(),
			m.get(union).ratio(), own.ratio(), ms(own.Seconds), m.limit(), mark})
	}
	writeTable(w, head, lines, markdown)
	fmt.Fprintf(w, "\n%d of %d rows miss something.\n\n", misses, len(res.Rows))
	res.printCosts(w, markdown)
}

// printCosts prints what else the rows took: CPU time of programs and server together, as
// ratios to that of the programs alone in the kernel's; memory; requests.
func (res *results) printCosts(w io.Writer, markdown bool) {
	head := []string{"row", "CPU: f-o 1", "f-o 2", "plash", "server ms", "MB", "requests: f-o 1", "f-o 2", "union", "plash"}
	var lines [][]string
	for _, m := range res.Rows {
		if m.Base != kernel {
			continue
		}
		line := []string{m.Name}
		for _, name := range []string{fuse1, fuse2, ours} {
			cell := ""
			if base := m.get(kernel); base.Total > 0 && m.get(name).Total > 0 {
				cell = fmt.Sprintf("%.2f", m.get(name).Total/base.Total)
			}
			line = append(line, cell)
		}
		own := m.get(ours)
		line = append(line, ms(own.CPU), fmt.Sprintf("%.1f", float64(own.Resident)/1e6))
		for _, name := range []string{fuse1, fuse2, union, ours} {
			line = append(line, m.perItem(name))
		}
		lines = append(lines, line)
	}
	if len(lines) > 0 {
		writeTable(w, head, lines, markdown)
		fmt.Fprintln(w)
	}
}

// printRequests prints the requests of each row by opcode.
func (res *results) printRequests(w io.Writer) {
	for _, m := range res.Rows {
		fmt.Fprintf(w, "%s, %d items\n", m.Name, m.Items)
		for _, name := range slices.Sorted(maps.Keys(m.Results)) {
			r := m.Results[name]
			if len(r.Requests) == 0 {
				continue
			}
			ops := slices.Collect(maps.Keys(r.Requests))
			slices.SortFunc(ops, func(a, b string) int { return r.Requests[b] - r.Requests[a] })
			var words []string
			for _, op := range ops {
				words = append(words, fmt.Sprintf("%s %d", op, r.Requests[op]))
			}
			fmt.Fprintf(w, "  %-16s %s per item: %s\n", name, m.perItem(name), strings.Join(words, ", "))
		}
	}
}

// perItem returns the requests for each of the row's items.
func (r *result) perItem(items int) float64 {
	sum := 0
	for _, n := range r.Requests {
		sum += n
	}
	return float64(sum) / float64(items)
}

func (m *measured) perItem(name string) string {
	if r := m.get(name); r.Requests != nil {
		return fmt.Sprintf("%.2f", r.perItem(m.Items))
	}
	return ""
}

func (r *result) ratio() string {
	switch {
	case r.Error != "":
		return "fails"
	case r.Ratio == 0:
		return ""
	}
	return fmt.Sprintf("%.2f", r.Ratio)
}

func ms(seconds float64) string {
	if seconds == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f", seconds*1000)
}

// limit says what is demanded.
func (m *measured) limit() string {
	switch {
	case m.Bytes > 0:
		return fmt.Sprintf("%d bytes", m.Bytes)
	case m.Target == 0:
		return ""
	case m.Than != "":
		return fmt.Sprintf("%v of %q", m.Target, m.Than)
	}
	return fmt.Sprint(m.Target)
}

// writeTable writes columns of equal width, the first one and the marks to the left.
func writeTable(w io.Writer, head []string, lines [][]string, markdown bool) {
	widths := make([]int, len(head))
	for _, line := range append([][]string{head}, lines...) {
		for i, cell := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	between, edge := "  ", ""
	if markdown {
		between, edge = " | ", "|"
	}
	write := func(line []string) {
		cells := make([]string, len(line))
		for i, cell := range line {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 || head[i] == "" {
				cells[i] = cell + pad
			} else {
				cells[i] = pad + cell
			}
		}
		text := strings.Join(cells, between)
		if markdown {
			text = edge + " " + text + " " + edge
		}
		fmt.Fprintln(w, strings.TrimRight(text, " "))
	}
	write(head)
	if markdown {
		fmt.Fprintln(w, "|"+strings.Repeat("---|", len(head)))
	}
	for _, line := range lines {
		write(line)
	}
}
