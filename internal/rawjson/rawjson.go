// Package rawjson is JSON with strings of any bytes, as program arguments and
// file names are. JSON's own strings are Unicode, and encoding/json replaces
// all else.
//
// A string that is not valid UTF-8, or that begins with a NUL, is written as a
// NUL and one character for each of its bytes, U+0000 to U+00FF. All others
// are written as usual, and so JSON of encoding/json is read as it is.
package rawjson

import (
	"encoding/json"
	"reflect"
	"strings"
	"unicode/utf8"
)

// Marshal is json.Marshal for values of structs, slices, pointers and strings;
// those in maps and interfaces are left alone.
func Marshal(v any) ([]byte, error) {
	return json.Marshal(convert(reflect.ValueOf(v), escape).Interface())
}

// Unmarshal is json.Unmarshal for what Marshal wrote.
func Unmarshal(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return err
	}
	to := reflect.ValueOf(v).Elem()
	to.Set(convert(to, unescape))
	return nil
}

// convert returns v with each string replaced; v itself stays as it is.
func convert(v reflect.Value, f func(string) string) reflect.Value {
	switch v.Kind() {
	case reflect.String:
		return reflect.ValueOf(f(v.String())).Convert(v.Type())
	case reflect.Pointer:
		if !v.IsNil() {
			to := reflect.New(v.Type().Elem())
			to.Elem().Set(convert(v.Elem(), f))
			return to
		}
	case reflect.Slice:
		if !v.IsNil() {
			to := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
			for i := range v.Len() {
				to.Index(i).Set(convert(v.Index(i), f))
			}
			return to
		}
	case reflect.Struct:
		to := reflect.New(v.Type()).Elem()
		to.Set(v)
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				to.Field(i).Set(convert(v.Field(i), f))
			}
		}
		return to
	}
	return v
}

func escape(s string) string {
	if utf8.ValidString(s) && !strings.HasPrefix(s, "\x00") {
		return s
	}
	var b strings.Builder
	b.WriteByte(0)
	for _, c := range []byte(s) {
		b.WriteRune(rune(c))
	}
	return b.String()
}

func unescape(s string) string {
	raw, ok := strings.CutPrefix(s, "\x00")
	if !ok {
		return s
	}
	var b strings.Builder
	for _, r := range raw {
		b.WriteByte(byte(r))
	}
	return b.String()
}
