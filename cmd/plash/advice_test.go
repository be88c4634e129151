package main

import "testing"

func TestNearest(t *testing.T) {
	for word, want := range map[string]string{
		"rnu": "run", "runn": "run", "biuld": "build", "shirnk": "shrink", "histroy": "history",
		"push": "push:dir", "import-tra": "import-tar", "Run": "run", "run:persits": "run:persist",
		"": "", "-": "", "--": "", "x": "", "nope": "", "alpine": "", "no-such-command": "", "é": "",
	} {
		if got := nearest(word); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}
