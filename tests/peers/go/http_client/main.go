// net/http as a client of HTTP/1.1, or with --http2 of HTTP/2 with prior knowledge. The last worker has a
// transport of its own, so that its connection is idle while it rests; all others share one.
//
// The transport repeats a request by itself, which cannot be turned off; that of HTTP/1.1 is noticed here
// when the request had been written, and counts as an error.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"drainctl.test/peers/contract"
)

type request struct {
	method, kind string
	size         int
}

var (
	args  = contract.ClientArgs()
	tally contract.Tally
	dials int64
)

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	atomic.AddInt64(&dials, 1)
	return new(net.Dialer).DialContext(ctx, network, address)
}

func transport() http.RoundTripper {
	if args.HTTP2 {
		dialTLS := func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
			return dial(ctx, network, address)
		}
		return &http2.Transport{AllowHTTP: true, DialTLSContext: dialTLS}
	}
	return &http.Transport{DialContext: dial, MaxIdleConnsPerHost: args.Connections}
}

func mix() []request {
	var mix []request
	add := func(kind string, request request) {
		if args.Kinds[kind] {
			mix = append(mix, request)
		}
	}
	for _, size := range contract.Sizes {
		add("body", request{"GET", "body", size})
		add("chunked", request{"GET", "chunked", size})
		add("head", request{"HEAD", "body", size})
		add("post", request{"POST", "count", 0})
	}
	add("status", request{"GET", "status", 204})
	add("status", request{"GET", "status", 304})
	return mix
}

// ask sends one request and insists on the right response.
func ask(way http.RoundTripper, r request, begun func()) {
	what, data := strconv.Itoa(r.size), []byte(nil)
	if r.kind == "count" {
		what, data = tally.Sent(), contract.Body(1000)
	}
	path := fmt.Sprintf("/%s/%s", r.kind, what)
	right := tally.Judge(r.method+" "+path, exchange(way, r, path, what, data, begun))
	if right && r.kind == "count" {
		tally.Answered()
	}
}

func exchange(way http.RoundTripper, r request, path, what string, data []byte, begun func()) error {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	var written int64
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { atomic.AddInt64(&written, 1) },
	})
	var body io.Reader
	if data != nil {
		body = bytes.NewReader(data)
	}
	question, err := http.NewRequestWithContext(ctx, r.method, args.URL+path, body)
	if err != nil {
		return err
	}
	if !args.HTTP2 {
		// Without it, no request with a body can be repeated.
		question.GetBody = nil
	}
	answer, err := way.RoundTrip(question)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	start := make([]byte, 1)
	count, err := io.ReadFull(answer.Body, start)
	begun()
	if err != nil && err != io.EOF {
		return err
	}
	rest, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if atomic.LoadInt64(&written) > 1 && !args.HTTP2 {
		return errors.New("written twice, by net/http itself")
	}
	return check(r, what, answer, append(start[:count], rest...))
}

func check(r request, what string, answer *http.Response, got []byte) error {
	status := http.StatusOK
	if r.kind == "status" {
		status = r.size
	}
	if answer.StatusCode != status {
		return contract.Wrong("status " + answer.Status)
	}
	wanted := contract.Body(r.size)
	switch {
	case r.kind == "status":
		wanted = nil
	case r.kind == "count":
		wanted, got = []byte(what), bytes.TrimSpace(got)
	case r.method == "HEAD":
		wanted = nil
		if answer.ContentLength > 0 && answer.ContentLength != int64(r.size) || r.size > 0 && answer.ContentLength <= 0 {
			return contract.Wrong(fmt.Sprintf("HEAD announces %d", answer.ContentLength))
		}
	}
	if !bytes.Equal(got, wanted) {
		return contract.Wrong(fmt.Sprintf("%d bytes instead of %d, or others", len(got), len(wanted)))
	}
	return nil
}

func main() {
	last := args.Connections - 1
	shared, own := transport(), transport()
	way := func(worker int) http.RoundTripper {
		if worker == last {
			return own
		}
		return shared
	}
	first := args.Connections
	if args.HTTP2 {
		first = 2
	}
	tally.Reconnects = func() int {
		if more := int(atomic.LoadInt64(&dials)) - first; more > 0 {
			return more
		}
		return 0
	}
	requests := mix()
	work := func(worker, turn int) {
		ask(way(worker), requests[turn%len(requests)], func() {})
	}
	var slow func(begun func())
	if args.Kinds["slow"] {
		slow = func(begun func()) { ask(shared, request{"GET", "slow", contract.Slow}, begun) }
	}
	contract.Run(args, &tally, work, slow)
}
