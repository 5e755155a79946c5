// net/http as a server of HTTP/1.1, and of HTTP/2 in clear text by prior knowledge and by upgrade.
package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"

	"drainctl.test/peers/contract"
)

type handler struct{ contract.Server }

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(r.URL.Path, "/")
	if len(parts) != 3 {
		http.NotFound(w, r)
		return
	}
	kind, what := parts[1], parts[2]
	size, _ := strconv.Atoi(what)
	switch kind {
	case "body":
		w.Header().Set("Content-Length", what)
		if r.Method != http.MethodHead {
			w.Write(contract.Body(size))
		}
	case "chunked":
		write(w, size, 0)
	case "slow":
		w.Header().Set("Content-Length", what)
		write(w, size, contract.Pause)
	case "count":
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			h.Execute(what)
			io.WriteString(w, what)
		}
	case "status":
		w.WriteHeader(size)
	default:
		http.NotFound(w, r)
	}
}

func write(w http.ResponseWriter, size int, pause time.Duration) {
	w.(http.Flusher).Flush()
	for _, piece := range contract.Split(contract.Body(size), contract.Pieces) {
		w.Write(piece)
		w.(http.Flusher).Flush()
		time.Sleep(pause) // not a wait for a state: the server's pace
	}
}

func main() {
	args := contract.ServerArgs()
	address := fmt.Sprintf(":%d", args.Port)
	contract.Fatal(http.ListenAndServe(address, h2c.NewHandler(handler{args}, &http2.Server{})))
}
