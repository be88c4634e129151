package exporters

import (
	"fmt"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"plash/internal/fileattr"
)

const blockSize = 512

// Types of members, as the header has them.
const (
	typeReg     = '0'
	typeLink    = '1'
	typeSymlink = '2'
	typeChar    = '3'
	typeBlock   = '4'
	typeDir     = '5'
	typeFifo    = '6'
	typePAX     = 'x'
)

// header describes a member of an archive. archive/tar's writer cannot write
// sparse files, whose headers it reserves for itself.
type header struct {
	name, link   string
	kind         byte
	size         int64
	major, minor uint32
	attr         *fileattr.Attributes
	records      map[string]string // PAX records
}

// encode appends the header's block to out, as POSIX.1-2001 describes it for pax
// ("ustar Interchange Format"), before it the extended header with the records
// and with what does not fit into the block.
func (h *header) encode(out []byte) []byte {
	var b [blockSize]byte
	h.text(b[0:100], h.name, "path")
	h.number(b[100:108], int64(h.attr.Mode), "")
	h.number(b[108:116], int64(h.attr.UID), "uid")
	h.number(b[116:124], int64(h.attr.GID), "gid")
	h.number(b[124:136], h.size, "size")
	h.number(b[136:148], h.attr.Mtime.Sec, "mtime")
	if h.attr.Mtime.Nsec != 0 || h.attr.Mtime.Sec < 0 {
		h.record("mtime", decimal(h.attr.Mtime))
	}
	b[156] = h.kind
	h.text(b[157:257], h.link, "linkpath")
	copy(b[257:], "ustar\x0000")
	h.number(b[329:337], int64(h.major), "")
	h.number(b[337:345], int64(h.minor), "")
	// The sum of all bytes, its own field counted as blanks.
	sum := 8 * int(' ')
	for _, c := range b {
		sum += int(c)
	}
	octal(b[148:154], int64(sum))
	copy(b[154:], "\x00 ")

	if len(h.records) == 0 {
		return append(out, b[:]...)
	}
	keys := make([]string, 0, len(h.records))
	for key := range h.records {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	var list strings.Builder
	for _, key := range keys {
		list.WriteString(line(key, h.records[key]))
	}
	ext := header{name: "PaxHeaders/" + h.name, kind: typePAX, size: int64(list.Len()), attr: &fileattr.Attributes{Mode: 0o644}}
	ext.name = ext.name[:min(len(ext.name), 100)]
	out = append(ext.encode(out), list.String()...)
	out = append(out, make([]byte, padding(ext.size))...)
	return append(out, b[:]...)
}

// text fills a field; what is too long for it goes into the record key.
func (h *header) text(field []byte, s, key string) {
	if copy(field, s) < len(s) {
		h.record(key, s)
	}
}

// number fills a field with octal digits and a NUL; what does not fit goes into
// the record key.
func (h *header) number(field []byte, n int64, key string) {
	digits := len(field) - 1
	if n < 0 || n>>(3*digits) != 0 {
		h.record(key, strconv.FormatInt(n, 10))
		n = 0
	}
	octal(field[:digits], n)
}

// octal fills a field with octal digits.
func octal(field []byte, n int64) {
	for i := range field {
		field[i] = '0' + byte(n>>(3*(len(field)-1-i))&7)
	}
}

// record adds a record.
func (h *header) record(key, value string) {
	if h.records == nil {
		h.records = map[string]string{}
	}
	h.records[key] = value
}

// line returns one line of an extended header, which begins with its own
// length.
func line(key, value string) string {
	rest := len(" =\n") + len(key) + len(value)
	size := rest + len(strconv.Itoa(rest))
	if len(strconv.Itoa(size)) > len(strconv.Itoa(rest)) {
		size++
	}
	return fmt.Sprintf("%d %s=%s\n", size, key, value)
}

// decimal returns a time in seconds.
func decimal(t unix.Timespec) string {
	sign := ""
	if t.Sec < 0 { // Nsec counts forwards all the same
		sign, t.Sec = "-", -t.Sec
		if t.Nsec > 0 {
			t.Sec, t.Nsec = t.Sec-1, 1e9-t.Nsec
		}
	}
	s := fmt.Sprintf("%s%d.%09d", sign, t.Sec, t.Nsec)
	return strings.TrimRight(strings.TrimRight(s, "0"), ".")
}

// padding is how much the last block lacks.
func padding(size int64) int64 { return -size & (blockSize - 1) }
