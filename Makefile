# make        builds dist/plash
# make man    writes the manual pages into dist/man
# make install, make uninstall  put all of it below PREFIX, and take it away
# make test   sets up this machine (as root) and runs all tests
# make soak   compares random operations with the kernel's for long (SEED, STEPS),
#             as root and as an ordinary user
# make check  is for the source: format, vet, staticcheck, other architectures
# make bench  measures plash beside other union file systems, as root and as BENCH_USER

export CGO_ENABLED = 0

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unreleased)
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

PREFIX = /usr/local

.PHONY: all man install uninstall test soak check bench clean

all:
	go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o dist/plash ./cmd/plash

man:
	go run ./docs/mkman $(VERSION) dist/man

install: all man
	install -D -t $(DESTDIR)$(PREFIX)/bin dist/plash
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man1 dist/man/*.1
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	dist/plash completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/plash
	dist/plash completion zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_plash
	dist/plash completion fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/plash.fish

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/plash $(DESTDIR)$(PREFIX)/share/man/man1/plash.1 $(DESTDIR)$(PREFIX)/share/man/man1/plash-*.1 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/plash \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_plash $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/plash.fish

test:
	sh tests/setup.sh
	go vet ./...
	go test -timeout 30m -count 1 ./... # of the program that tests/ builds, the cache knows nothing
	if command -v cc >/dev/null; then \
		CGO_ENABLED=1 GORACE=atexit_sleep_ms=0 go test -timeout 30m -race -skip MemoryGivenBack ./internal/fusedev ./union ./fs; \
	else echo "no C compiler: data races are not looked for" >&2; fi

SEED = 0
STEPS = 100000
soak:
	sh tests/setup.sh
	go test -timeout 24h -v ./fs -run 'RandomLikeTheKernel|RandomAsUser' -seed $(SEED) -steps $(STEPS)

check:
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "gofmt would change:" $$unformatted; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	GOARCH=arm64 go vet ./...
	GOARCH=arm64 go build -o /dev/null ./cmd/plash

BENCH_USER = plashtest
FUSE_OVERLAYFS2 =
bench: all
	go build -o dist/bench ./bench
	dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	dist/bench -dir "$$dir" -fuse-overlayfs2 "$(FUSE_OVERLAYFS2)" -json dist/bench-root.json dist/plash && \
	dist/bench -dir "$$dir" -fuse-overlayfs2 "$(FUSE_OVERLAYFS2)" -json dist/bench-user.json -user $(BENCH_USER) dist/plash

clean:
	rm -rf dist
