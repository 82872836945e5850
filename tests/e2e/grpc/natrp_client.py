#!/usr/bin/python3
"""natrp_client.py: the original natrp client's behaviour, spoken by python3-grpcio and python3-protobuf.

    natrp_client.py tunnel --server HOST:PORT --token T --local HOST:PORT [--streams N]
    natrp_client.py call METHOD --server HOST:PORT [--token T ...] [--bytes N [--compress]]

`tunnel` keeps N Msg streams open, each with a connection to the service of its own that is dialled at once, and opens
each again after its end. It prints `ended CODE DETAILS` for each. Bytes of the service that end with `cancel!` make it
cancel the call. `call` makes one call and prints `answer CODE MSG` or `status CODE DETAILS`; a call of Msg sends one
message with N bytes of content, if told to.
"""

import argparse
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

CHUNK = 16 * 1024
REOPEN_SECONDS = 0.1
CALL_SECONDS = 20


def messages():
    """{name: class} of server_proto.txt, by the real protobuf compiler."""
    proto = Path(__file__).with_name("server_proto.txt")
    done = subprocess.run(["protoc", f"--proto_path={proto.parent}", "--descriptor_set_out=/dev/stdout", proto.name],
                          stdout=subprocess.PIPE, check=True)
    files = descriptor_pb2.FileDescriptorSet.FromString(done.stdout)
    pool = descriptor_pool.DescriptorPool()
    factory = message_factory.MessageFactory(pool)
    pool.Add(files.file[0])
    return {message.name: factory.GetPrototype(pool.FindMessageTypeByName(f"serverpb.{message.name}"))
            for message in files.file[0].message_type}


class Client:
    def __init__(self, server, tokens):
        self.messages = messages()
        self.metadata = [("natrp-token", token) for token in tokens]
        self.channel = grpc.insecure_channel(server)

    def method(self, kind, name, request, response):
        return kind(f"/serverpb.ServerService/{name}", request_serializer=self.messages[request].SerializeToString,
                    response_deserializer=self.messages[response].FromString)

    def msg(self, requests, compression=None):
        call = self.method(self.channel.stream_stream, "Msg", "MsgRequest", "MsgResponse")
        return call(requests, metadata=self.metadata, compression=compression)

    def call(self, name, size=0, compress=False):
        """One call, whatever it is; the line that says how it went."""
        try:
            if name == "Msg":
                def requests():
                    if size:
                        yield self.messages["MsgRequest"](data=bytes(size))
                    threading.Event().wait(CALL_SECONDS)

                responses = self.msg(requests(), grpc.Compression.Gzip if compress else None)
                for _ in responses:
                    pass
                return f"status {responses.code().name} {responses.details()}"
            kind = "Register" if name == "Register" else "Login"
            method = self.method(self.channel.unary_unary, name, f"{kind}Request", f"{kind}Response")
            request = self.messages[f"{kind}Request"](email="someone@example.test", password="secret")
            answer = method(request, metadata=self.metadata, timeout=CALL_SECONDS)
            return f"answer {answer.code} {answer.msg}"
        except grpc.RpcError as error:
            return f"status {error.code().name} {error.details()}"

    def stream(self, local):
        """One Msg stream and its connection to the service, to the end of both."""
        dialled = threading.Event()
        service = socket.socket()
        call = None

        def requests():
            dialled.wait()
            while True:
                try:
                    data = service.recv(CHUNK)
                except OSError:
                    return
                if not data:
                    return
                if data.endswith(b"cancel!"):
                    call.cancel()
                    return
                yield self.messages["MsgRequest"](data=data)

        call = self.msg(requests())
        try:
            service.connect(local)
            dialled.set()
            for response in call:
                service.sendall(response.data)
        except grpc.RpcError:
            pass
        except OSError:
            call.cancel()
        finally:
            dialled.set()
            try:
                service.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            service.close()
        print(f"ended {call.code().name} {call.details()}", flush=True)

    def keep_open(self, local):
        while True:
            self.stream(local)
            time.sleep(REOPEN_SECONDS)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("tunnel", "call"))
    parser.add_argument("method", nargs="?", default="Msg")
    parser.add_argument("--server", required=True)
    parser.add_argument("--token", action="append", default=[])
    parser.add_argument("--local")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--bytes", type=int, default=0)
    parser.add_argument("--compress", action="store_true")
    arguments = parser.parse_args()
    client = Client(arguments.server, arguments.token)
    if arguments.command == "call":
        print(client.call(arguments.method, arguments.bytes, arguments.compress), flush=True)
        return 0
    host, port = arguments.local.rsplit(":", 1)
    for _ in range(arguments.streams):
        threading.Thread(target=client.keep_open, args=((host, int(port)),), daemon=True).start()
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
