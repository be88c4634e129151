package main

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestSize(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "0B", 1023: "1023B", 4096: "4.0K", 10240: "10K", 12 << 20: "12M", 1<<20 + 1<<19: "1.5M", 3 << 40: "3.0T", 1 << 62: "4.0E",
	} {
		if got := size(bytes); got != want {
			t.Errorf("%d: %s, want %s", bytes, got, want)
		}
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m", 119 * time.Minute: "1h", 47 * time.Hour: "47h", 49 * time.Hour: "2d",
	} {
		if got := age(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

// oneLine has no line break, and printf %b gives back what it was.
func TestOneLine(t *testing.T) {
	for _, text := range []string{"", "plain é", "a\nb\tc", `back\slash \n`, "\x1b[31mred\x07", "\xff\xfe", "line\n", "\u202e"} {
		got := oneLine(text)
		if strings.ContainsAny(got, "\n\t\x1b") {
			t.Errorf("%q: %q", text, got)
		}
		back, err := exec.Command("bash", "-c", `printf %b. "$1"`, "bash", got).Output()
		if err != nil || string(back) != text+"." {
			t.Errorf("%q became %q, %q, %v", text, got, back, err)
		}
	}
}

// shellWords is what a shell reads as the same words.
func TestShellWords(t *testing.T) {
	words := []string{"sh", "-c", "echo 'a' \"$b\" \\", "", "a\nb", "*", "x=1", "~", "é", "#c"}
	out, err := exec.Command("sh", "-c", `printf '%s|' `+shellWords(words)).Output()
	if err != nil || string(out) != strings.Join(words, "|")+"|" {
		t.Errorf("%s: %q, %v", shellWords(words), out, err)
	}
	if got := shellWords([]string{"apk", "add", "git=1.2"}); got != "apk add git=1.2" {
		t.Error(got)
	}
}
