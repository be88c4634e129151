package macros

import "strings"

// An installer is a package manager: its macro's name without dashes and the
// lines of code that install packages, for which {} stands.
type installer struct {
	name  string
	lines []string
}

var installers = []installer{
	{"apt", []string{"apt-get update", "apt-get install -y {}"}},
	{"apk", []string{"apk update", "apk add {}"}},
	{"yum", []string{"yum install -y {}"}},
	{"dnf", []string{"dnf install -y {}"}},
	{"pacman", []string{"pacman -Sy --noconfirm {}"}},
	{"emerge", []string{"emerge {}"}},
	{"pip", []string{"pip install {}"}},
	{"pip3", []string{"pip3 install {}"}},
	{"npm", []string{"npm install -g {}"}},
	{"add-apt-repository", []string{"apt-get update", "apt-get install -y software-properties-common", "add-apt-repository -y {}"}},
}

func (i installer) macro() macro {
	m := macro{names: []string{"--" + i.name}, args: "PACKAGE…", help: "install packages with " + i.name, max: -1, expand: i.install}
	if i.name == "add-apt-repository" {
		m.args, m.help = "REPOSITORY…", "add a package repository to apt"
	}
	return m
}

// install emits the lines; without packages there is nothing to do.
func (i installer) install(e *eval, packages []string) error {
	if len(packages) == 0 {
		return nil
	}
	for _, line := range i.lines {
		e.emit(strings.ReplaceAll(line, "{}", quoteAll(packages)))
	}
	return nil
}

// defpm defines one more of these for the macros that follow.
func defpm(e *eval, args []string) error {
	i := installer{args[0], args[1:]}
	e.defined[i.name] = func(packages []string) error { return i.install(e, packages) }
	return nil
}

// A shortcut is a distribution and its package manager in one letter.
type shortcut struct {
	letter, distro, installer string
}

var shortcuts = []shortcut{
	{"A", "alpine", "apk"},
	{"U", "ubuntu", "apt"},
	{"F", "fedora", "dnf"},
	{"D", "debian", "apt"},
	{"C", "centos", "yum"},
	{"R", "archlinux", "pacman"},
	{"G", "gentoo", "emerge"},
}

func (s shortcut) macro() macro {
	return macro{
		names: []string{"-" + s.letter, "--" + s.letter}, args: "PACKAGE…", max: -1,
		help: "--from-lxc " + s.distro + " --" + s.installer + " PACKAGE…",
		expand: func(e *eval, packages []string) error {
			if err := e.base(&Base{"-" + s.letter, fromLXC, []string{s.distro}}); err != nil {
				return err
			}
			return e.macro("--"+s.installer, packages)
		},
	}
}
