package passwd_test

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"plash/internal/passwd"
)

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestByUID(t *testing.T) {
	file := write(t, "# users\nbroken\nroot:x:0:0:root:/root:/bin/bash\njoe:x:1000:100:Joe:/home/joe:\n")
	for uid, want := range map[int]passwd.Entry{
		0:    {Name: "root", Home: "/root", Shell: "/bin/bash"},
		1000: {Name: "joe", UID: 1000, GID: 100, Home: "/home/joe"},
	} {
		if got, ok := passwd.ByUID(file, uid); !ok || got != want {
			t.Errorf("ByUID(%d) = %+v, %v", uid, got, ok)
		}
	}
	if _, ok := passwd.ByUID(file, 7); ok {
		t.Error("found a user who is not there")
	}
	if _, ok := passwd.ByUID(file+"x", 0); ok {
		t.Error("found a user in no file")
	}
}

func TestSubordinate(t *testing.T) {
	file := write(t, "joe:100000:65536\n1000:300000:10\nann:200000:65536\njoe:x:1\njoe:5\n:1:1\n")
	want := []passwd.Range{{Start: 100000, Count: 65536}, {Start: 300000, Count: 10}}
	if got := passwd.Subordinate(file, "joe", 1000); !reflect.DeepEqual(got, want) {
		t.Errorf("joe has %v", got)
	}
	if got := passwd.Subordinate(file, "", 7); got != nil {
		t.Errorf("nobody has %v", got)
	}
}
