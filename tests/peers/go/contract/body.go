// Package contract is what every Go peer shares: bodies, command lines, and the summary of a client.
// The contract itself is in ../../README.md.
package contract

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

// Sizes of bodies that clients ask for, and what a slow answer is made of.
var Sizes = []int{0, 1, 100, 1000, 10_000, 100_000}

const (
	Slow   = 90_000
	Pieces = 30
	Pause  = 100 * time.Millisecond
)

// Body is byte by byte what a body of this size is.
func Body(size int) []byte {
	body := make([]byte, size)
	for i := range body {
		body[i] = byte((i*31 + size) % 251)
	}
	return body
}

// Split cuts a body into that many pieces, and a rest.
func Split(body []byte, count int) [][]byte {
	step := len(body) / count
	if step == 0 {
		step = 1
	}
	var pieces [][]byte
	for len(body) > step {
		pieces = append(pieces, body[:step])
		body = body[step:]
	}
	return append(pieces, body)
}

// Server is a server's command line.
type Server struct {
	Port     int
	executed *os.File
}

// ServerArgs reads it.
func ServerArgs() Server {
	port := flag.Int("port", 0, "")
	path := flag.String("executed", "", "")
	flag.Parse()
	file, err := os.OpenFile(*path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		Fatal(err)
	}
	return Server{Port: *port, executed: file}
}

// Execute is the side effect of a POST: its id, on a line of its own.
func (s Server) Execute(id string) {
	if _, err := s.executed.WriteString(id + "\n"); err != nil {
		Fatal(err)
	}
}

// Client is a client's command line.
type Client struct {
	URL         string
	Connections int
	Warm        int
	Kinds       map[string]bool
	HTTP2       bool
}

// ClientArgs reads it.
func ClientArgs() Client {
	var args Client
	flag.StringVar(&args.URL, "url", "", "")
	flag.IntVar(&args.Connections, "connections", 4, "")
	flag.IntVar(&args.Warm, "warm", 1000, "")
	flag.BoolVar(&args.HTTP2, "http2", false, "HTTP/2 with prior knowledge")
	kinds := flag.String("kinds", "body,chunked,head,post,status,slow", "")
	flag.Parse()
	args.Kinds = map[string]bool{}
	for _, kind := range strings.Split(*kinds, ",") {
		args.Kinds[kind] = true
	}
	return args
}

// Fatal ends the program with a message.
func Fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
