// Package wire is the gRPC service without generated code: messages are plain bytes.
package wire

import "fmt"

// Service is its full name; a method's path is "/" + Service + "/" + method.
const Service = "peers.Peer"

// Codec takes *[]byte for a message.
type Codec struct{}

// Marshal gives the bytes.
func (Codec) Marshal(v any) ([]byte, error) {
	bytes, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("a message of type %T", v)
	}
	return *bytes, nil
}

// Unmarshal takes a copy: the buffer is used again.
func (Codec) Unmarshal(data []byte, v any) error {
	bytes, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("a message of type %T", v)
	}
	*bytes = append([]byte(nil), data...)
	return nil
}

// Name is that of the default codec, so that the content type is the usual one.
func (Codec) Name() string { return "proto" }
