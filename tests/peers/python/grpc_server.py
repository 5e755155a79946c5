"""grpcio as a server, without generated code: messages are plain bytes."""

import time
from concurrent import futures

import grpc

import contract

MESSAGES = 40

args = contract.server_args()
executed = contract.Executed(args.executed)


def body(request, context):
    return contract.body(int(request))


def count(request, context):
    executed.add(request.decode())
    return request


def slow(request, context):
    whole = contract.body(int(request))
    step = len(whole) // MESSAGES
    for at in range(0, len(whole), step):
        yield whole[at : at + step]
        time.sleep(contract.PAUSE)


def talk(requests, context):
    yield from requests


methods = {
    "Body": grpc.unary_unary_rpc_method_handler(body),
    "Count": grpc.unary_unary_rpc_method_handler(count),
    "Slow": grpc.unary_stream_rpc_method_handler(slow),
    "Talk": grpc.stream_stream_rpc_method_handler(talk),
}
# A call takes a thread for as long as it lasts.
server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("peers.Peer", methods)])
server.add_insecure_port(f"0.0.0.0:{args.port}")
server.start()
server.wait_for_termination()
