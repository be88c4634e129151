package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// results are those of one kind of user, as they are written as JSON.
type results struct {
	User     bool              `json:"user"` // an ordinary one's, not root's
	Machine  string            `json:"machine"`
	Date     string            `json:"date"`
	Versions map[string]string `json:"versions"` // of the contenders
	Rows     []*measured       `json:"rows"`
}

// A measured is a row's results.
type measured struct {
	Name    string             `json:"name"`
	Target  float64            `json:"target,omitempty"` // at most so many times the base
	Base    string             `json:"base"`             // contender that the ratios are to
	Than    string             `json:"than,omitempty"`   // row of plash that the target is to, instead
	Bytes   int                `json:"bytes,omitempty"`  // by so much plash's server may grow for each item
	Items   int                `json:"items"`
	Results map[string]*result `json:"results"` // by contender
}

// A result is a contender's in a row.
type result struct {
	Seconds  float64        `json:"seconds"` // median
	Ratio    float64        `json:"ratio"`   // to the base's
	CPU      float64        `json:"server_cpu_seconds"`
	Total    float64        `json:"cpu_seconds"`           // of the programs and the server
	Resident int64          `json:"server_resident_bytes"` // afterwards, the most
	Grown    int64          `json:"server_grown_bytes"`    // by the row, the most
	Requests map[string]int `json:"requests,omitempty"`
	Samples  []float64      `json:"samples"` // seconds of each round
	Error    string         `json:"error,omitempty"`

	cpus, totals []float64
}

func newResults(c config) results {
	res := results{User: c.User != "", Machine: machine(), Date: time.Now().Format(time.DateOnly), Versions: map[string]string{}}
	for _, c := range contenders(c) {
		res.Versions[c.name] = c.version()
	}
	mode := 0
	if res.User {
		mode = 1
	}
	for _, g := range groups {
		for _, r := range g.rows {
			res.Rows = append(res.Rows, &measured{Name: r.name, Target: r.target[mode], Base: kernel, Than: r.than, Bytes: r.bytes, Items: r.items, Results: map[string]*result{}})
		}
	}
	for _, c := range commands {
		res.Rows = append(res.Rows, &measured{Name: c.name, Target: c.target[mode], Base: c.other, Items: 1, Results: map[string]*result{}})
	}
	return res
}

// machine says what was measured on.
func machine() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	model := runtime.GOARCH
	for line := range strings.Lines(string(text)) {
		if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	return model
}

// add adds a sample to its row.
func (res *results) add(s sample) {
	i := slices.IndexFunc(res.Rows, func(m *measured) bool { return m.Name == s.Row })
	r := res.Rows[i].Results[s.Contender]
	if r == nil {
		r = &result{}
		res.Rows[i].Results[s.Contender] = r
	}
	switch {
	case s.Error != "":
		r.Error = s.Error
	case s.Requests != nil:
		r.Requests = s.Requests
	case s.Round > 0:
		r.Samples = append(r.Samples, s.Seconds)
		r.cpus, r.totals = append(r.cpus, s.CPU), append(r.totals, s.CPU+s.Own)
		r.Resident = max(r.Resident, s.Resident)
		r.Grown = max(r.Grown, s.Grown)
	}
}

// summarize drops rows that were not measured, and fills in what follows from
// the samples.
func (res *results) summarize() {
	res.Rows = slices.DeleteFunc(res.Rows, func(m *measured) bool { return len(m.Results) == 0 })
	for _, m := range res.Rows {
		for _, r := range m.Results {
			r.Seconds, r.CPU, r.Total = median(r.Samples), median(r.cpus), median(r.totals)
		}
		base := m.Results[m.Base]
		for _, r := range m.Results {
			if base != nil && base.Seconds > 0 {
				r.Ratio = r.Seconds / base.Seconds
			}
		}
	}
}

func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

// misses says what the row fails of what is demanded of plash.
func (res *results) misses(m *measured) []string {
	list := res.missesOf(m, ours)
	for _, miss := range res.missesOf(m, union) {
		if !slices.Contains(list, miss) {
			list = append(list, "union "+miss)
		}
	}
	return list
}

// missesOf says it of plash's images, or of plash union.
func (res *results) missesOf(m *measured, name string) []string {
	own := m.get(name)
	switch {
	case own.Error != "":
		return []string{"FAILS"}
	case own.Seconds == 0: // not measured
		return nil
	}
	ratio := own.Ratio
	if m.Than != "" {
		ratio = 0
		if i := slices.IndexFunc(res.Rows, func(r *measured) bool { return r.Name == m.Than }); i >= 0 && res.Rows[i].get(name).Seconds > 0 {
			ratio = own.Seconds / res.Rows[i].get(name).Seconds
		}
	}
	var list []string
	if m.Target > 0 && ratio > m.Target {
		list = append(list, "MISS")
	}
	if m.Bytes > 0 && own.Grown > int64(m.Bytes*m.Items) {
		list = append(list, fmt.Sprintf("MISS: %d bytes", own.Grown/int64(m.Items)))
	}
	for _, other := range []struct{ name, mark string }{{fuse1, "behind 1.x"}, {fuse2, "behind 2.x"}} {
		if r := m.get(other.name); r.Error == "" && r.Seconds > 0 && own.Seconds >= r.Seconds {
			list = append(list, other.mark)
		}
	}
	return list
}

func (m *measured) get(name string) *result {
	if r := m.Results[name]; r != nil {
		return r
	}
	return &result{}
}

// readResults reads files, root's first; of rows that several have, the last
// file's count.
func readResults(files []string) ([]*results, error) {
	all := map[bool]*results{}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var res results
		if err := json.Unmarshal(text, &res); err != nil {
			return nil, err
		}
		if old := all[res.User]; old != nil {
			res.Rows = merge(old.Rows, res.Rows)
		}
		all[res.User] = &res
	}
	var list []*results
	for _, user := range []bool{false, true} {
		if res := all[user]; res != nil {
			list = append(list, res)
		}
	}
	return list, nil
}

// merge returns the rows of both, in the order of the program.
func merge(old, fresh []*measured) []*measured {
	rows := slices.Clone(fresh)
	for _, m := range old {
		if !slices.ContainsFunc(fresh, func(f *measured) bool { return f.Name == m.Name }) {
			rows = append(rows, m)
		}
	}
	order := map[string]int{}
	for _, m := range newResults(config{}).Rows {
		order[m.Name] = len(order)
	}
	slices.SortStableFunc(rows, func(a, b *measured) int { return order[a.Name] - order[b.Name] })
	return rows
}
