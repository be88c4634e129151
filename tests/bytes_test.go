package tests

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestAnyBytes: arguments, names and what macros keep may have any bytes but
// NUL, which no argument has.
func TestAnyBytes(t *testing.T) {
	each(t, everyone, time.Minute, func(t *testing.T) {
		id := needTiny(t)
		var all []byte
		for c := 1; c < 256; c++ {
			all = append(all, byte(c))
		}
		word := string(all) + "\xff"
		same := func(words ...string) {
			t.Helper()
			if r := plash(t, words...); r.ok() != word {
				r.fatal("all bytes as they were")
			}
		}
		same("run", id, "printf", "%s", word)
		same("sudo", "printf", "%s", word)
		same("--from", id, "--run", "printf %s '"+"\xff\xfe"+"' >/x", "--entrypoint", "printf", "%s", word)
		same("--from", id, "--env", "V="+word, "--", "sh", "-c", `printf %s "$V"`)
		id = plash(t, "build", "--from", "1", "--write-file", "/\xff", `--\ `+word).id()
		same("run", id, "cat", "/\xff")
		// In a directory whose name is not UTF-8.
		dir := filepath.Join(os.Getenv("HOME"), "d\xff")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Chdir(dir)
		plash(t, "run", id, "pwd").prints(dir)
		if err := os.WriteFile("plashfile", []byte("#!/usr/bin/env plash\n--from 1\n--run\npwd >/built-in\n--entrypoint cat /built-in\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		plash(t, dir+"/plashfile").prints(dir)
		noTemps(t)
	})
}
