package macros

import (
	"testing"
)

// TestFrom: what --from takes an image for.
func TestFrom(t *testing.T) {
	for image, want := range map[string]string{
		"1": fromID, "007": fromID, "host": fromHost, "alpine": fromLXC, "alpine:edge": fromLXC, "centos:9-Stream": fromLXC,
		"": fromLXC, "host:1": fromLXC, "-1": "",
	} {
		p, err := Eval([]string{"--from", image}, nil)
		if want == "" {
			if err == nil {
				t.Errorf("%s: no error", image)
			}
		} else if err != nil || p.Base.From != want || p.Base.Args[0] != image {
			t.Errorf("%s: %v, %+v", image, err, p)
		}
	}
}
