"""The NATS protocol cut into frames: enough of it to lose some, double some and mix some up between a client and a server."""

import random
from collections.abc import Callable, Sequence

Frame = bytes
# Gets the frames that have just come in, whole and in order, and gives those that are passed on.
Rewrite = Callable[[Sequence[Frame]], Sequence[Frame]]

_END = b"\r\n"
_WITH_PAYLOAD = (b"PUB ", b"HPUB ", b"MSG ", b"HMSG ")


class Frames:
    """Of one direction of one connection: `feed` it what comes, however it is cut."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        data = self._rest + data
        frames: list[Frame] = []
        at = 0
        while (end := data.find(_END, at)) >= 0:
            after = end + len(_END)
            if data.startswith(_WITH_PAYLOAD, at):
                after += int(data[at:end].rpartition(b" ")[2]) + len(_END)
            if after > len(data):
                break
            frames.append(data[at:after])
            at = after
        self._rest = data[at:]
        return frames


def is_acknowledgement(frame: Frame) -> bool:
    """Ack, nak, progress or term of a consumer."""
    return frame.startswith(b"PUB $JS.ACK.")


def is_confirmation(frame: Frame) -> bool:
    """The PubAck of a stream, of a batch too."""
    return frame.startswith(b"MSG _INBOX.") and frame.partition(_END)[2].startswith(b'{"stream":')


def is_delivery(frame: Frame) -> bool:
    return frame.startswith((b"MSG ", b"HMSG ")) and b" $JS.ACK." in frame[: frame.find(_END)]


def without(unwanted: Callable[[Frame], bool]) -> Rewrite:
    return lambda frames: [frame for frame in frames if not unwanted(frame)]


def doubled_and_mixed(chance: random.Random, share: float) -> Rewrite:
    """Deliveries that came together, in any order, and this share of them twice; everything else stays where it was."""

    def rewrite(frames: Sequence[Frame]) -> Sequence[Frame]:
        deliveries = [frame for frame in frames if is_delivery(frame)]
        again = [frame for frame in deliveries if chance.random() < share]
        chance.shuffle(mixed := [*deliveries, *again])
        places = iter(mixed)
        return [next(places) if is_delivery(frame) else frame for frame in frames] + list(places)

    return rewrite
