package importers

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
)

// mayVerify tells what is missing to check signatures by a keyring.
func mayVerify(keyring string) error {
	f, err := os.Open(keyring)
	if err != nil {
		return fmt.Errorf("keyring %w", errs.Path(keyring, err))
	}
	f.Close()
	if _, err := exec.LookPath("gpgv"); err != nil {
		return fmt.Errorf("keyring %s: signatures cannot be checked: gpgv: command not found", keyring)
	}
	return nil
}

// verify checks that a key of the keyring has made this signature of data.
func verify(keyring string, data, signature []byte) error {
	// gpgv looks elsewhere for a name without a slash.
	keyring, err := filepath.Abs(keyring)
	if err != nil {
		return err
	}
	// It wants a file of its own for the signature.
	fd, err := unix.MemfdCreate("signature", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("memfd_create: %w", err)
	}
	file := os.NewFile(uintptr(fd), "signature")
	defer file.Close()
	if _, err := file.Write(signature); err != nil {
		return err
	}
	var status, said bytes.Buffer
	cmd := exec.Command("gpgv", "--status-fd", "1", "--keyring", keyring, "/proc/self/fd/3", "-")
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(data), &status, &said
	cmd.ExtraFiles = []*os.File{file}
	err = cmd.Run()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		return fmt.Errorf("gpgv: %w", err)
	}
	// The exit code alone is 0 also if the key has expired or was revoked.
	if err != nil || !bytes.Contains(status.Bytes(), []byte("[GNUPG:] GOODSIG ")) {
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		return fmt.Errorf("bad signature: %s", lines[len(lines)-1])
	}
	return nil
}
