package fileattr

import (
	"strings"
	"testing"
)

const list = "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x06\x00\xe8\x03\x00\x00" +
	"\x04\x00\x05\x00\xff\xff\xff\xff" + "\x08\x00\x04\x00\x07\x00\x00\x00" + "\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"

func TestACL(t *testing.T) {
	text, err := aclText([]byte(list))
	if want := "user::rwx,user:1000:rw-,group::r-x,group:7:r--,mask::rwx,other::---"; text != want || err != nil {
		t.Errorf("%s, %v", text, err)
	}
	for name, text := range map[string]string{
		"ours":         text,
		"GNU tar":      "user::rwx\nuser:1000:rw-\ngroup::r-x\ngroup:7:r--\nmask::rwx\nother::---\n",
		"star":         "user::rwx,user:joe:rw-:1000,group::r-x,group:bin:r--:7,mask::rwx,other::---",
		"short":        "u::rwx,u:1000:rw,g::rx,g:7:r,mask:rwx,other:---",
		"out of order": "other::---,mask::rwx,group:7:r--,group::r-x,user:1000:rw-,user::rwx # comment",
	} {
		got, err := parseACL(text)
		if string(got) != list || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, text := range []string{"user:joe:rwx", "user:rwx", "nobody::rwx", "user::abc", "user:99999999999:r"} {
		if got, err := parseACL(text); err == nil {
			t.Errorf("%s: %q", text, got)
		}
	}
	if got, err := parseACL("\n"); got != nil || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestRecords(t *testing.T) {
	for _, x := range []Xattr{
		{"user.plain", []byte("a\x00=\n")}, {"user.a=b%3D%", nil}, {AccessACL, []byte(list)}, {DefaultACL, []byte(list)},
		{AccessACL, []byte("not a list")},
	} {
		key, value := Record(x)
		if strings.Contains(key, "=") {
			t.Errorf("%s: key %s", x.Name, key)
		}
		got, bad := FromRecords(map[string]string{key: value, "mtime": "1"})
		if len(got) != 1 || got[0].Name != x.Name || string(got[0].Value) != string(x.Value) || len(bad) > 0 {
			t.Errorf("%s: %q, %v", x.Name, got, bad)
		}
	}
}

// Capabilities set in a user namespace lose its root id.
func TestCapability(t *testing.T) {
	v3 := "\x01\x00\x00\x03\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xa0\x86\x01\x00"
	v2 := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	for _, v := range []string{v2, v3} {
		if got, _ := FromRecords(map[string]string{"SCHILY.xattr.security.capability": v}); string(got[0].Value) != v2 {
			t.Errorf("%q", got[0].Value)
		}
	}
}
