"""gRPC in pure asyncio: `grpc.aio.Channel` over the HTTP/2 library h2, without gRPC's C core and its threads.

It has what `SpeechAsyncClient` needs and no more: streaming calls with deadlines, flow control, keepalive, GOAWAY, TLS,
call credentials and statuses, of one address. Retries, load balancing, proxies and compression it has not.
"""
