package importers

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"plash/internal/spell"
)

// lxcArch returns what the server calls this machine's architecture: Debian's
// name for it.
func lxcArch() string {
	switch runtime.GOARCH {
	case "386":
		return "i386"
	case "arm":
		return "armhf"
	case "ppc64le":
		return "ppc64el"
	}
	return runtime.GOARCH
}

// resolve finds the image that name means for an architecture.
func resolve(images []LXCImage, name, arch string) (LXCImage, error) {
	distro, version, versioned := strings.Cut(name, ":")
	if distro == "" || versioned && version == "" {
		return LXCImage{}, fmt.Errorf("%s: not the name of an image, which is DISTRO:VERSION or DISTRO", name)
	}
	of := filter(images, func(i LXCImage) bool { return i.Distro == distro })
	if len(of) == 0 {
		return LXCImage{}, fmt.Errorf("no such distribution: %s: %s", distro, suggest(images, distro))
	}
	found := of
	if versioned {
		found = filter(of, func(i LXCImage) bool { return i.Version == version || slices.Contains(i.aliases, version) })
	}
	here := func(i LXCImage) bool { return i.arch == arch }
	if len(found) == 0 {
		return LXCImage{}, fmt.Errorf("no such version: %s: %s", name, versions(filter(of, here), distro))
	}
	usable := filter(found, here)
	if len(usable) == 0 {
		return LXCImage{}, fmt.Errorf("no image for %s: %s: only for %s", arch, name, few(found, func(i LXCImage) string { return i.arch }))
	}
	return slices.MaxFunc(usable, compareReleases), nil
}

func filter(images []LXCImage, keep func(LXCImage) bool) []LXCImage {
	var kept []LXCImage
	for _, image := range images {
		if keep(image) {
			kept = append(kept, image)
		}
	}
	return kept
}

// manyNames is from when on an error does not name all of something.
const manyNames = 12

// few names what of returns for the images, in order; "" if it is too many.
func few(images []LXCImage, of func(LXCImage) string) string {
	var names []string
	for _, image := range images {
		names = append(names, of(image))
	}
	slices.SortFunc(names, compareVersions)
	if names = slices.Compact(names); len(names) > manyNames {
		return ""
	}
	return strings.Join(names, ", ")
}

// versions says which versions of distro there are.
func versions(images []LXCImage, distro string) string {
	names := few(images, func(i LXCImage) string { return i.Version })
	if names != "" {
		return "there are " + names
	}
	return fmt.Sprintf("plash pull:lxc --list '%s:*' prints those there are", distro)
}

// suggest says which distributions are called nearly like name.
func suggest(images []LXCImage, name string) string {
	distance := map[string]int{}
	for _, image := range images {
		distro := image.Distro
		d := spell.Distance(strings.ToLower(name), strings.ToLower(distro))
		if strings.Contains(distro, name) || strings.Contains(name, distro) {
			d = min(d, 1)
		}
		if d <= 2 && d < len(distro) {
			distance[distro] = d
		}
	}
	if len(distance) == 0 {
		return "plash pull:lxc --list prints those there are"
	}
	var near []string
	for distro := range distance {
		near = append(near, distro)
	}
	slices.SortFunc(near, func(a, b string) int {
		return cmp.Or(cmp.Compare(distance[a], distance[b]), strings.Compare(a, b))
	})
	return "there is " + strings.Join(near[:min(3, len(near))], ", ")
}

// Kinds of versions, in the order in which they count as the newest release.
const (
	rolling    = iota // changes all the time: edge, unstable
	unreleased        // still being made
	codename          // a name that has no number
	numbered
)

// rollingNames are versions that are no releases.
var rollingNames = []string{"cauldron", "ceres", "cooker", "current", "devel", "edge", "experimental", "factory",
	"next", "rawhide", "rolling", "sid", "sisyphus", "snapshot", "testing", "tumbleweed", "unstable"}

// compareReleases orders images by their release. A release is as new as its
// number: that of its name, or of another name if its own is a code name
// (debian/12 is bookworm). Code names without a number count as older and are
// compared as words, since they mostly go through the alphabet; their build
// times would not tell, as a server builds all of them every day.
func compareReleases(a, b LXCImage) int {
	kindA, versionA := a.release()
	kindB, versionB := b.release()
	return cmp.Or(cmp.Compare(kindA, kindB), compareVersions(versionA, versionB), strings.Compare(a.built, b.built))
}

// release returns the kind of the image's version and what it is compared by.
func (i LXCImage) release() (kind int, version string) {
	if slices.Contains(rollingNames, strings.ToLower(i.Version)) {
		return rolling, i.Version
	}
	for _, name := range append([]string{i.Version}, i.aliases...) {
		if isDigit(name[0]) {
			if i.early(name) {
				return unreleased, name
			}
			return numbered, name
		}
	}
	return codename, i.Version
}

// early tells whether the image was built before the release called number,
// for the distributions whose next release the server has from its beginning:
// Ubuntu's number is its month, and Debian releases in summer every two years,
// 12 in 2023.
func (i LXCImage) early(number string) bool {
	var year, month int
	switch i.Distro {
	case "ubuntu":
		if n, _ := fmt.Sscanf(number, "%2d.%2d", &year, &month); n != 2 {
			return false
		}
		year += 2000
	case "debian":
		if n, _ := fmt.Sscanf(number, "%d", &year); n != 1 {
			return false
		}
		year, month = 1999+2*year, 9
	default:
		return false
	}
	return i.built < fmt.Sprintf("%04d%02d", year, month)
}

// compareVersions compares numbers in versions as numbers: 3.9 is less than
// 3.20.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		headA, headB := head(a), head(b)
		a, b = a[len(headA):], b[len(headB):]
		if isDigit(headA[0]) && isDigit(headB[0]) {
			headA, headB = strings.TrimLeft(headA, "0"), strings.TrimLeft(headB, "0")
			if c := cmp.Compare(len(headA), len(headB)); c != 0 {
				return c
			}
		}
		if c := strings.Compare(headA, headB); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

// head returns the digits that s begins with, or what is before the first.
func head(s string) string {
	digits := isDigit(s[0])
	for i := range len(s) {
		if isDigit(s[i]) != digits {
			return s[:i]
		}
	}
	return s
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
