"""uvicorn's protocol, with a bound on the head of a request: it keeps headers in memory until the last has come."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_LIMIT_BYTES = 128 << 10
"""More than any gateway takes, which refuses with a reason; this is for heads that do not end."""

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedHead(HttpToolsProtocol):
    """Cuts a connection off whose head goes on and on."""

    _in_head = False
    _head_bytes = 0

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """It has ended."""
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """What came counts if the head is not whole after it."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_LIMIT_BYTES:
                self.transport.write(_TOO_LARGE)
                self.transport.close()
