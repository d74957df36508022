"""Requests and their replies over a transport: windows, time-outs, and repeats."""

from collections import deque
from collections.abc import Callable, Sequence

from nearbit_boards.protocol import Layout, Message, Parser, Reply, Status, request
from nearbit_boards.transport import DeviceError, Transport, WriteTimeout


__all__ = ["Exchange", "Incomplete"]


# Statuses of requests that were damaged on their way, or arrived where none was expected.
_DAMAGED = (Status.CRC, Status.TYPE, Status.LENGTH, Status.TIMEOUT)

# Bytes beyond the longest reply after which a babbling device counts as silent.
_BABBLE = 4096


class Incomplete(Exception):
    """Requests that must not be repeated blindly were not answered."""


class Exchange:
    """Sends requests and returns their replies in order.

    Requests are numbered. One that is not answered in time, or was damaged, is sent again with the
    same number and the same bytes: loads name their tokens and queries change nothing, so it makes
    no difference whether the device understood it the first time.

    Parameters
    ----------
    transport
        Transport to the device.
    timeout
        Seconds of silence after which all unanswered requests are sent again.
    retries
        How often a request is sent again before :class:`DeviceError` is raised.
    """

    def __init__(self, transport: Transport, *, timeout: float, retries: int) -> None:
        """Start without requests."""
        self.transport = transport
        self.parser = Parser()
        self.timeout = timeout
        self.retries = retries
        self.sent = 0
        """Bytes sent."""
        self.received = 0
        """Bytes received."""
        self.repeated = 0
        """Requests that were sent again."""
        self._sequence = 0

    def use(self, layout: Layout) -> None:
        """Set the layout of the device's messages."""
        self.parser.layout = layout

    def settle(self, silence: float, most: int) -> None:
        """Discard incoming bytes until some seconds of silence, or until there are too many."""
        count = 0
        while count < most:
            octets = self.transport.read(silence)
            if not octets:
                break
            count += len(octets)
            self.received += len(octets)
        self.parser.flush()

    def one(self, kind: Message, payload: bytes = b"") -> Reply:
        """Send a request, and return its reply."""
        return self.run([(kind, payload)])[0]

    def run(self, requests: Sequence[tuple[Message, bytes]], *, window: int = 1,
            once: bool = False, answered: Callable[[int], None] | None = None
            ) -> list[Reply]:
        """Send requests, and return their replies.

        Parameters
        ----------
        requests
            Types and payloads.
        window
            Requests that may wait for their replies, at most 128. More than two only if no reply
            is longer than the request after it: the device has no buffer for requests.
        once
            Whether to raise :class:`Incomplete` instead of sending anything again.
        answered
            Called now and then with the number of requests answered.
        """
        replies: list[Reply | None] = [None] * len(requests)
        waiting: dict[int, int] = {} # sequence number -> index of the request
        tries = [0] * len(requests)
        again: deque[int] = deque()
        upcoming, done, since = 0, 0, 0
        numbers: list[int] = []
        while done < len(requests):
            octets = b""
            ends: list[tuple[int, int]] = [] # index of a request, and the bytes up to its end
            while again or (upcoming < len(requests) and len(waiting) < window):
                if again:
                    index = again.popleft()
                    if replies[index] is not None or tries[index] == 0:
                        continue
                    self.repeated += 1
                else:
                    index, upcoming = upcoming, upcoming + 1
                    numbers.append(self._sequence)
                    self._sequence = (self._sequence + 1) % 256
                tries[index] += 1
                waiting[numbers[index]] = index
                octets += request(requests[index][0], numbers[index], requests[index][1])
                ends.append((index, len(octets)))
            if octets:
                try:
                    self.transport.write(octets)
                except WriteTimeout as error:
                    index = next(index for index, end in ends if end > error.sent)
                    raise DeviceError(
                        f"{self.transport.name} has accepted no data for {error.seconds:g} "
                        f"seconds: {self.sent + error.sent:,} bytes were sent since it was opened, "
                        f"request {index + 1:,} of {len(requests):,} ({requests[index][0].name}) "
                        f"is the first that was not sent whole, and {done:,} were answered; reset "
                        f"the board or plug it in again, and run again") from None
                self.sent += len(octets)

            came = self.transport.read(self.timeout)
            self.received += len(came)
            since += len(came)
            found = self.parser.feed(came)
            silent = not came or since > self._longest(len(waiting))
            if silent:
                found += self.parser.flush()
                since = 0
            failed = silent and not any(reply.sequence in waiting for reply in found)
            for reply in found:
                place = waiting.get(reply.sequence)
                if place is None:
                    continue
                since = 0
                if reply.status in _DAMAGED:
                    failed |= once
                    self._again(place, tries, again, reply)
                    continue
                if reply.status != Status.OK and not once:
                    raise DeviceError(f"{self.transport.name} refuses a request of type "
                                      f"{requests[place][0].name} with the status "
                                      f"{reply.status.name}; the request does not match its "
                                      f"configuration")
                failed |= reply.status != Status.OK
                del waiting[reply.sequence]
                replies[place] = reply
                done += 1
            if once and failed:
                # Replies still on their way would be taken for answers to the next requests.
                self.settle(self.timeout, self._longest(window))
                raise Incomplete
            if failed:
                for place in list(waiting.values()):
                    self._again(place, tries, again, None)
            if answered is not None:
                answered(done)
        return [reply for reply in replies if reply is not None]

    def _longest(self, count: int) -> int:
        layout = self.parser.layout
        return _BABBLE + (0 if layout is None else count * layout.reply_bytes)

    def _again(self, index: int, tries: list[int], again: deque[int], reply: Reply | None) -> None:
        if tries[index] > self.retries:
            tried = "once" if tries[index] == 1 else f"{tries[index]} times"
            if reply is not None:
                raise DeviceError(f"{self.transport.name} received a request {tried} and found it "
                                  f"damaged each time ({reply.status.name}); check the cable")
            if self.parser.skipped:
                raise DeviceError(f"{self.transport.name} sends data that is not a Nearbit "
                                  f"message; check that this is the board's port, and the baud "
                                  f"rate of its bitstream{self._at_baud()}")
            raise DeviceError(f"{self.transport.name} does not answer, though it was asked "
                              f"{tried}; check that the board has its bitstream, that this is its "
                              f"port, and its baud rate{self._at_baud()}")
        again.append(index)

    def _at_baud(self) -> str:
        return f" (this is {self.transport.baud})" if self.transport.baud else ""
