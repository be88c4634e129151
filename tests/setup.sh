#!/bin/sh
# Brings a Debian machine to what the tests need, and changes nothing that is
# there already: programs, two users, an open /dev/fuse. As an ordinary user it
# only says what stays untested.
set -eu

say() { echo "tests/setup.sh: $*" >&2; }

if [ "$(id -u)" != 0 ]; then
	say "not root: the tests run as $(id -un) only; those that need root, other users or missing programs are left out (go test -v tells which)"
	exit 0
fi

# left_out CAUSE: tests that need it are, but in CI that is a failure
left_out() {
	say "$*: what needs it is left out"
	[ -z "${CI:-}" ]
}

# install PACKAGE...: again if it fails, as a mirror or who else installs something
# may let it
install() {
	export DEBIAN_FRONTEND=noninteractive
	for pause in 0 5 20; do
		sleep $pause
		if apt-get update </dev/null >&2 &&
			apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" </dev/null >&2; then
			return
		fi
	done
	return 1
}

# one line each: a program, and the Debian package that it comes in
missing=
while read -r program package; do
	command -v "$program" >/dev/null || missing="$missing $package"
done <<END
newuidmap uidmap
fusermount3 fuse3
debootstrap debootstrap
getfattr attr
getfacl acl
lz4 lz4
zstd zstd
xz xz-utils
bzip2 bzip2
runsv runit
busybox busybox-static
setcap libcap2-bin
killall psmisc
setpriv util-linux
useradd passwd
ps procps
git git
buildah buildah
podman podman
jq jq
gpg gpg
gpg-agent gpg-agent
gpgv gpgv
cc gcc
pip3 python3-pip
bash bash
zsh zsh
fish fish
man man-db
Xvfb xvfb
END
# Not by their programs: a busybox with libraries does not run in an empty
# root, and debootstrap checks signatures only if it has the keys.
if busybox=$(command -v busybox) && ldd "$busybox" >/dev/null 2>&1; then
	missing="$missing busybox-static"
fi
[ -e /usr/include/stdlib.h ] || missing="$missing libc6-dev" # for the race detector
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing="$missing debian-archive-keyring"
if [ -n "$missing" ]; then
	if command -v apt-get >/dev/null; then
		say "installing$missing"
		install $missing || left_out "packages cannot be installed"
	else
		say "this is no Debian: install what these packages hold:$missing"
	fi
fi

# next_id FILE: the first id behind all ranges of FILE
next_id() {
	awk -F: 'BEGIN { n = 100000 } $2 + $3 > n { n = $2 + $3 } END { print n }' "$1"
}
touch /etc/subuid /etc/subgid
for user in plashtest plashtest1; do
	id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/sh --user-group "$user"
done
# plashtest has subordinate ids, plashtest1 has none
for file in /etc/subuid /etc/subgid; do
	grep -q '^plashtest:' "$file" || echo "plashtest:$(next_id "$file"):65536" >>"$file"
	sed -i '/^plashtest1:/d' "$file"
done

if [ ! -e /dev/fuse ]; then
	modprobe fuse 2>/dev/null || true
	[ -e /dev/fuse ] || mknod /dev/fuse c 10 229 || true
fi
if ! chmod 0666 /dev/fuse || ! (exec 3<>/dev/fuse) 2>/dev/null; then
	left_out "/dev/fuse cannot be opened"
fi

# A docker engine, if one can run here.
engine() {
	tries=$1
	until docker info >/dev/null 2>&1; do
		[ "$tries" -gt 0 ] || return 1
		tries=$((tries - 1))
		sleep 1
	done
}
if ! engine 0; then
	if ! command -v dockerd >/dev/null && command -v apt-get >/dev/null; then
		say "installing docker.io"
		install docker.io iptables || true
	fi
	service docker start </dev/null >/dev/null 2>&1 || true
	if ! engine 5 && command -v dockerd >/dev/null; then
		# The service wants limits raised that a container may not raise.
		setsid dockerd </dev/null >/var/log/dockerd.log 2>&1 &
		engine 15 || true
	fi
	engine 0 || say "no docker engine can run here: what needs one is left out"
fi
