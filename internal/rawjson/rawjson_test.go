package rawjson

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

type inner struct {
	S string
}

type outer struct {
	Strings []string
	Bytes   []byte
	Inner   []inner
	Pointer *inner
	Nil     *inner
	Time    time.Time
	Number  int
}

// TestAnyBytes: what goes in comes out, and what goes in is not changed.
func TestAnyBytes(t *testing.T) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	v := outer{
		Strings: []string{"", "plain é", "\xff", "\xc3", "é\xff", "\x00", "\x00é", "a\x00b", string(all)},
		Bytes:   []byte{1, 255},
		Inner:   []inner{{S: "\x80"}, {}},
		Pointer: &inner{S: "\xff"},
		Time:    time.Unix(1, 2).UTC(),
		Number:  3,
	}
	data, err := Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if v.Strings[2] != "\xff" || v.Pointer.S != "\xff" {
		t.Error("the value was changed")
	}
	var got outer
	if err := Unmarshal(data, &got); err != nil || !reflect.DeepEqual(got, v) {
		t.Errorf("%v\n%s\n%+v\n%+v", err, data, got, v)
	}
}

// TestUsual: text is what encoding/json makes of it.
func TestUsual(t *testing.T) {
	v := outer{Strings: []string{"a", "é", "a\x00"}, Inner: []inner{{S: "x"}}, Pointer: &inner{S: "y"}}
	want, _ := json.Marshal(v)
	if got, err := Marshal(&v); err != nil || string(got) != string(want) {
		t.Errorf("%v: %s, want %s", err, got, want)
	}
	if err := Unmarshal([]byte("{"), &v); err == nil {
		t.Error("bad JSON is read")
	}
}
