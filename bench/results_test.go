package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// add adds rounds of these seconds.
func addAll(res *results, row, contender string, seconds ...float64) {
	for i, s := range seconds {
		res.add(sample{Row: row, Contender: contender, Round: i + 1, Seconds: s})
	}
}

func find(t *testing.T, res *results, name string) *measured {
	t.Helper()
	i := slices.IndexFunc(res.Rows, func(m *measured) bool { return m.Name == name })
	if i < 0 {
		t.Fatalf("no row %q", name)
	}
	return res.Rows[i]
}

func TestMedianAndRatio(t *testing.T) {
	res := newResults(config{})
	addAll(&res, "find, cold", kernel, 3, 1, 2)
	addAll(&res, "find, cold", ours, 5, 9, 3)
	res.add(sample{Row: "find, cold", Contender: ours, Requests: map[string]int{"LOOKUP": treeFiles}})
	res.summarize()
	if len(res.Rows) != 1 {
		t.Fatalf("%d rows, though one was measured", len(res.Rows))
	}
	m := find(t, &res, "find, cold")
	if got := m.get(ours); got.Seconds != 5 || got.Ratio != 2.5 || got.perItem(m.Items) != 1 {
		t.Errorf("median %v, ratio %v, %v requests for each", got.Seconds, got.Ratio, got.perItem(m.Items))
	}
}

func TestMisses(t *testing.T) {
	res := newResults(config{})
	for _, row := range []string{"find, cold", "find, warm", "copy-up by append"} {
		addAll(&res, row, kernel, 1)
	}
	addAll(&res, "find, cold", ours, 1.5) // of 1.4
	addAll(&res, "find, cold", union, 1.3)
	addAll(&res, "find, cold", fuse1, 1.4)
	addAll(&res, "find, cold", fuse2, 2)
	addAll(&res, "find, warm", ours, 1.1)
	addAll(&res, "find, warm", fuse2, 1.1)
	res.add(sample{Row: "copy-up by append", Contender: ours, Round: 1, Error: "append: EIO"})
	addAll(&res, "1 layer: lookups, cold", ours, 1)
	addAll(&res, "500 layers: lookups, cold", ours, 1.2)
	addAll(&res, "1 layer: lookups, warm", ours, 1)
	addAll(&res, "500 layers: lookups, warm", ours, 1)
	const million = "stat of 1,000,000 files"
	res.add(sample{Row: million, Contender: ours, Round: 1, Seconds: 1, Grown: 151_000_000})
	res.summarize()
	for row, want := range map[string]string{
		"find, cold":                "MISS, behind 1.x",
		"find, warm":                "behind 2.x",
		"copy-up by append":         "FAILS",
		"1 layer: lookups, cold":    "",
		"500 layers: lookups, cold": "MISS",
		"500 layers: lookups, warm": "",
		million:                     "MISS: 151 bytes",
	} {
		if got := strings.Join(res.misses(find(t, &res, row)), ", "); got != want {
			t.Errorf("%s: %q, want %q", row, got, want)
		}
	}
}

// TestMerge reads results of several runs: of the same row the last one counts.
func TestMerge(t *testing.T) {
	write := func(name string, user bool, seconds map[string]float64) string {
		res := newResults(config{})
		res.User = user
		for row, s := range seconds {
			addAll(&res, row, kernel, 1)
			addAll(&res, row, ours, s)
		}
		res.summarize()
		text, err := json.Marshal(res)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	all, err := readResults([]string{
		write("user", true, map[string]float64{"find, warm": 7}),
		write("a", false, map[string]float64{"git status": 2, "find, warm": 2}),
		write("b", false, map[string]float64{"find, warm": 3, "find, cold": 4}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 || all[0].User || !all[1].User {
		t.Fatalf("not root's and then the user's: %v", all)
	}
	var names []string
	for _, m := range all[0].Rows {
		names = append(names, m.Name)
	}
	if got := strings.Join(names, "; "); got != "find, cold; find, warm; git status" {
		t.Errorf("rows %s", got)
	}
	if got := find(t, all[0], "find, warm").get(ours).Ratio; got != 3 {
		t.Errorf("ratio %v, not that of the last file", got)
	}
	var table bytes.Buffer
	all[0].print(&table, true)
	if !strings.Contains(table.String(), "| find, warm |") {
		t.Errorf("no Markdown:\n%s", table.String())
	}
	dir := t.TempDir()
	if err := drawCharts(dir, all); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"times-root.svg", "times-user.svg"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Contains(text, []byte(">find, warm</text>")) || !bytes.Contains(text, []byte(">0.5</text>")) {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
}

// TestRows: names are what results are merged by, and what a target refers to.
func TestRows(t *testing.T) {
	seen := map[string]bool{}
	for _, g := range groups {
		if (&agent{}).sets()[g.set] == nil {
			t.Errorf("%s: no such layers: %s", g.name, g.set)
		}
		for _, r := range g.rows {
			if seen[r.name] || r.items == 0 {
				t.Errorf("row %q: twice, or without items", r.name)
			}
			seen[r.name] = true
			if r.than != "" && !seen[r.than] {
				t.Errorf("row %q: no row %q before it", r.name, r.than)
			}
			if len(r.argv) > 2 && r.argv[1] == "work" && works[r.argv[2]] == nil {
				t.Errorf("row %q: no such work", r.name)
			}
		}
	}
}
