package main

import (
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// colours of the contenders in charts; the kernel is the line at 1.
var colours = []struct{ name, colour string }{
	{fuse1, "#e69f00"}, {fuse2, "#d55e00"}, {unionfs, "#999999"}, {union, "#56b4e9"}, {ours, "#0072b2"},
}

// drawCharts writes charts into the directory dir: for each kind of user the
// ratios to the kernel's times, and the requests per item.
func drawCharts(dir string, all []*results) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, res := range all {
		who, suffix := "as root", "root"
		if res.User {
			who, suffix = "as an ordinary user, in a user namespace", "user"
		}
		times := chart{title: "Times " + who + ", as multiples of kernel overlayfs's (left is better; bars: plash's limits)"}
		requests := chart{title: "Requests to the server for each file, name or operation " + who}
		for _, m := range res.Rows {
			if m.Base != kernel {
				continue
			}
			t, r := chartRow{name: m.Name, values: map[string]float64{}}, chartRow{name: m.Name, values: map[string]float64{}}
			if m.Than == "" {
				t.mark = m.Target
			}
			for name, result := range m.Results {
				if result.Error == "" {
					t.values[name] = result.Ratio
					r.values[name] = result.perItem(m.Items)
				}
			}
			if m.get(ours).Ratio > 0 {
				times.rows = append(times.rows, t)
			}
			if m.Items > 1 && m.get(ours).Requests != nil {
				requests.rows = append(requests.rows, r)
			}
		}
		for name, c := range map[string]chart{"times": times, "requests": requests} {
			if err := os.WriteFile(filepath.Join(dir, name+"-"+suffix+".svg"), []byte(c.svg()), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// A chart has a line for each row, with dots on a logarithmic scale.
type chart struct {
	title string
	rows  []chartRow
}

type chartRow struct {
	name   string
	values map[string]float64 // by contender; those that are 0 are not drawn
	mark   float64
}

// Sizes in pixels, and what the scale spans.
const (
	chartLeft, chartWidth, chartTop, chartLine = 280, 640, 70, 17
	scaleMin, scaleMax                         = 0.05, 50.0
)

// x is where a value lies; values beyond the scale lie at its ends.
func x(value float64) float64 {
	value = min(max(value, scaleMin), scaleMax)
	return chartLeft + chartWidth*math.Log(value/scaleMin)/math.Log(scaleMax/scaleMin)
}

func (c chart) svg() string {
	var b strings.Builder
	bottom := chartTop + chartLine*len(c.rows)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n",
		chartLeft+chartWidth+40, bottom+10)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/><text x="10" y="18" font-size="14">%s</text>`+"\n", html.EscapeString(c.title))
	shown := 0
	for _, contender := range colours {
		if !slices.ContainsFunc(c.rows, func(r chartRow) bool { return r.values[contender.name] > 0 }) {
			continue
		}
		fmt.Fprintf(&b, `<circle cx="%d" cy="36" r="4" fill="%s"/><text x="%d" y="40">%s</text>`+"\n", 20+shown*130, contender.colour, 28+shown*130, contender.name)
		shown++
	}
	for _, value := range []float64{0.1, 0.2, 0.5, 1, 2, 5, 10, 20} {
		stroke := "#ddd"
		if value == 1 {
			stroke = "black"
		}
		fmt.Fprintf(&b, `<path d="M%.1f %dV%d" stroke="%s"/><text x="%.1f" y="%d" text-anchor="middle">%v</text>`+"\n",
			x(value), chartTop-5, bottom, stroke, x(value), chartTop-10, value)
	}
	for i, row := range c.rows {
		y := chartTop + i*chartLine + chartLine/2
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", chartLeft-10, y+4, html.EscapeString(row.name))
		if row.mark > 0 {
			fmt.Fprintf(&b, `<path d="M%.1f %dv12" stroke="#0072b2" stroke-width="2"/>`+"\n", x(row.mark), y-6)
		}
		for _, contender := range colours {
			if value := row.values[contender.name]; value > 0 {
				fmt.Fprintf(&b, `<circle cx="%.1f" cy="%d" r="4" fill="%s"><title>%.2f</title></circle>`+"\n", x(value), y, contender.colour, value)
			}
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}
