package macros

import (
	"maps"
	"slices"
	"strings"
)

// builtinInstallers returns the package managers' macros: each name with its
// lines of code, in which {} stands for the packages.
func builtinInstallers() map[string][]string {
	return map[string][]string{
		"apt":    {"apt-get update", "apt-get install -y {}"},
		"apk":    {"apk update", "apk add {}"},
		"yum":    {"yum install -y {}"},
		"dnf":    {"dnf install -y {}"},
		"pacman": {"pacman -Sy --noconfirm {}"},
		"emerge": {"emerge {}"},
		"pip":    {"pip install {}"},
		"pip3":   {"pip3 install {}"},
		"npm":    {"npm install -g {}"},
	}
}

func installerNames() []string {
	return slices.Sorted(maps.Keys(builtinInstallers()))
}

// install emits an installer's lines; without packages there is nothing to do.
func (e *eval) install(lines, packages []string) {
	if len(packages) == 0 {
		return
	}
	for _, line := range lines {
		e.emit(strings.ReplaceAll(line, "{}", quoteAll(packages)))
	}
}
