// grpc-go as a client, without retries by policy. It repeats by itself what the server cannot have seen
// ("transparent retry": a stream above a GOAWAY's number), which cannot be turned off. The last worker has
// a connection of its own, so that it is idle while it rests; all others share one.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"drainctl.test/peers/contract"
	"drainctl.test/peers/wire"
)

const talks = 10

var (
	args  = contract.ClientArgs()
	tally contract.Tally
	dials int64
)

func connect() *grpc.ClientConn {
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		atomic.AddInt64(&dials, 1)
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	target := "passthrough:///" + strings.TrimPrefix(args.URL, "http://")
	connection, err := grpc.NewClient(target, grpc.WithContextDialer(dial), grpc.WithDisableRetry(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(wire.Codec{})))
	if err != nil {
		contract.Fatal(err)
	}
	return connection
}

func path(method string) string { return "/" + wire.Service + "/" + method }

func same(got, wanted []byte) error {
	if !bytes.Equal(got, wanted) {
		return contract.Wrong(fmt.Sprintf("%d bytes instead of %d, or others", len(got), len(wanted)))
	}
	return nil
}

func deadline() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 15*time.Second)
}

func unary(way *grpc.ClientConn, method string, request, wanted []byte) bool {
	ctx, cancel := deadline()
	defer cancel()
	var got []byte
	err := way.Invoke(ctx, path(method), &request, &got)
	if err == nil {
		err = same(got, wanted)
	}
	return tally.Judge(method, err)
}

func talk(way *grpc.ClientConn) error {
	ctx, cancel := deadline()
	defer cancel()
	desc := &grpc.StreamDesc{StreamName: "Talk", ServerStreams: true, ClientStreams: true}
	stream, err := way.NewStream(ctx, desc, path("Talk"))
	if err != nil {
		return err
	}
	for turn := 0; turn < talks; turn++ {
		message := contract.Body(100 + turn)
		var got []byte
		// When sending fails, receiving has the reason.
		if err := stream.SendMsg(&message); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := stream.RecvMsg(&got); err != nil {
			return unexpected(err)
		}
		if err := same(got, message); err != nil {
			return err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	return end(stream)
}

func slow(way *grpc.ClientConn, begun func()) error {
	ctx, cancel := deadline()
	defer cancel()
	stream, err := way.NewStream(ctx, &grpc.StreamDesc{StreamName: "Slow", ServerStreams: true}, path("Slow"))
	if err != nil {
		return err
	}
	request := []byte(strconv.Itoa(contract.Slow))
	if err := stream.SendMsg(&request); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	var all []byte
	for len(all) < contract.Slow {
		var got []byte
		if err := stream.RecvMsg(&got); err != nil {
			return unexpected(err)
		}
		if all == nil {
			begun()
		}
		all = append(all, got...)
	}
	if err := same(all, contract.Body(contract.Slow)); err != nil {
		return err
	}
	return end(stream)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return contract.Wrong("the stream ended early")
	}
	return err
}

// end insists that the stream ends, and with OK.
func end(stream grpc.ClientStream) error {
	var got []byte
	err := stream.RecvMsg(&got)
	if err == nil {
		return contract.Wrong("a message too many")
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func main() {
	// Its command line has no kinds, but there is a slow call always.
	args.Kinds = map[string]bool{"slow": true}
	last := args.Connections - 1
	shared, own := connect(), connect()
	tally.Reconnects = func() int { return int(atomic.LoadInt64(&dials)) - 2 }
	work := func(worker, turn int) {
		way := shared
		if worker == last {
			way = own
		}
		switch turn % 8 {
		case 6:
			id := []byte(tally.Sent())
			if unary(way, "Count", id, id) {
				tally.Answered()
			}
		case 7:
			tally.Judge("Talk", talk(way))
		default:
			size := contract.Sizes[turn%8]
			unary(way, "Body", []byte(strconv.Itoa(size)), contract.Body(size))
		}
	}
	contract.Run(args, &tally, work, func(begun func()) { tally.Judge("Slow", slow(shared, begun)) })
	shared.Close()
	own.Close()
}
