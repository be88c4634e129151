package importers

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
)

// What fails and may pass is tried again for this long, with pauses that
// double; a server may be silent as long. Variables for the tests.
var (
	retryFor   = 30 * time.Second
	firstPause = 500 * time.Millisecond
)

// client asks for files as they are, not compressed on the way: else their size
// is not known, and neither is whether all of it came.
var client = sync.OnceValue(func() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true
	return &http.Client{Transport: transport, CheckRedirect: checkRedirect}
})

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return finalError{errors.New("redirected ten times")}
	}
	if scheme := req.URL.Scheme; scheme != "http" && scheme != "https" {
		return finalError{fmt.Errorf("redirected to %q: only http and https are followed", req.URL.Redacted())}
	}
	return nil
}

// finalError is an error that another try will not change.
type finalError struct{ error }

func (e finalError) Unwrap() error { return e.error }

// statusError is a server's answer other than the file.
type statusError struct {
	code  int
	after time.Duration // the server wants to be left alone as long
}

func (e statusError) Error() string { return fmt.Sprintf("%d %s", e.code, http.StatusText(e.code)) }

// Is lets a file that the server does not have be fs.ErrNotExist.
func (e statusError) Is(target error) bool {
	return target == fs.ErrNotExist && e.code == http.StatusNotFound
}

// A download is the body of a http or https address. If the transfer breaks
// off it starts it anew, and goes on where it was if what comes before is the
// same. One goroutine reads it; any may close it.
type download struct {
	address string
	size    int64 // -1 if the server does not say

	ctx     context.Context
	cancel  context.CancelFunc
	current context.Context // of this try
	body    io.Reader
	abort   *time.Timer // ends the try when the server is silent

	got   int64
	sum   hash.Hash // of what has been read
	broke int64     // where the transfer broke off before
	pause time.Duration
	err   error // what Read returns from now on
}

// openDownload returns when the server has begun to send what is at u.
func openDownload(u *url.URL) (*download, error) {
	d := &download{address: u.String(), sum: sha256.New(), pause: firstPause}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if err := d.start(nil); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Close ends the transfer.
func (d *download) Close() error {
	d.cancel()
	return nil
}

// start makes body give what follows the bytes that were read. It tries for
// some time; failed is how the try before has failed, if there was one.
func (d *download) start(failed error) error {
	deadline := time.Now().Add(retryFor)
	for {
		if failed != nil && !d.wait(failed, deadline) {
			return failed
		}
		if failed = d.connect(time.Until(deadline)); failed == nil {
			failed = d.skip()
		}
		if failed == nil {
			return nil
		}
	}
}

// wait waits before the next try; false if there is none.
func (d *download) wait(failed error, deadline time.Time) bool {
	if !mayPass(failed) {
		return false
	}
	pause := d.pause
	d.pause *= 2
	if status, ok := errors.AsType[statusError](failed); ok {
		pause = max(pause, status.after)
	}
	if time.Now().Add(pause).After(deadline) {
		return false
	}
	select {
	case <-time.After(pause):
		return true
	case <-d.ctx.Done():
		return false
	}
}

// connect asks the server for the file, and gives up after patience.
func (d *download) connect(patience time.Duration) error {
	ctx, cancel := context.WithCancelCause(d.ctx)
	d.current = ctx
	d.abort = time.AfterFunc(patience, func() { cancel(unix.ETIMEDOUT) })
	defer d.abort.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.address, nil)
	if err != nil {
		return finalError{err}
	}
	resp, err := client().Do(req)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok { // repeats the address
			err = wrapped.Err
		}
		return d.cause(err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return statusError{resp.StatusCode, retryAfter(resp.Header)}
	}
	d.body, d.size = resp.Body, resp.ContentLength
	return nil
}

// cause returns why the try has ended, if it was ended from here.
func (d *download) cause(err error) error {
	if cause := context.Cause(d.current); cause != nil {
		return cause
	}
	return err
}

// skip reads what was read in an earlier transfer, to go on behind it.
func (d *download) skip() error {
	again := sha256.New()
	for n := d.got; n > 0; {
		d.abort.Reset(retryFor)
		m, err := io.CopyN(again, d.body, min(n, 1<<20))
		d.abort.Stop()
		if n -= m; err == io.EOF {
			return finalError{errors.New("the file has changed during the transfer")}
		} else if err != nil {
			return d.cause(err)
		}
	}
	if !bytes.Equal(again.Sum(nil), d.sum.Sum(nil)) {
		return finalError{errors.New("the file has changed during the transfer")}
	}
	return nil
}

func (d *download) Read(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	d.abort.Reset(retryFor)
	n, err := d.body.Read(p)
	d.abort.Stop()
	d.got += int64(n)
	d.sum.Write(p[:n])
	if err == nil || err == io.EOF {
		return n, err
	}
	err = d.cause(err)
	broken := d.brokeOff(err)
	// A transfer that breaks off twice at the same byte ends there.
	if d.got > 0 && d.got == d.broke {
		err = broken
	} else {
		d.broke = d.got
		err = d.start(err)
		if _, final := errors.AsType[finalError](err); err != nil && !final {
			err = broken
		}
	}
	d.err = err
	return n, err
}

// brokeOff words an error of reading the body.
func (d *download) brokeOff(err error) error {
	what := fmt.Sprintf("the transfer broke off after %d bytes", d.got)
	if d.size >= 0 {
		what = fmt.Sprintf("the transfer broke off after %d of %d bytes", d.got, d.size)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New(what)
	}
	return errs.Path(what, err)
}

// mayPass tells whether another try can end better: not if the name is
// unknown, the port closed, the certificate wrong or the request refused.
func mayPass(err error) bool {
	if status, ok := errors.AsType[statusError](err); ok {
		return status.code == http.StatusTooManyRequests || status.code >= 500
	}
	if name, ok := errors.AsType[*net.DNSError](err); ok && name.IsNotFound {
		return false
	}
	_, final := errors.AsType[finalError](err)
	_, certificate := errors.AsType[*tls.CertificateVerificationError](err)
	if final || certificate {
		return false
	}
	for _, never := range []error{http.ErrSchemeMismatch, unix.ECONNREFUSED, context.Canceled} {
		if errors.Is(err, never) {
			return false
		}
	}
	return true
}

// retryAfter returns how long a busy server wants to be left alone, in one of
// the two ways to say so.
func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if when, err := http.ParseTime(text); err == nil {
		return time.Until(when)
	}
	return 0
}
