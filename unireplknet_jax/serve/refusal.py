"""What a request is told in place of an answer."""

from __future__ import annotations


class Refusal(Exception):
    """A request that gets no answer: its HTTP status and a sentence.

    details: what the document of the answer holds besides. again: seconds after which it may come again.
    """

    def __init__(
        self, status: int, sentence: str, again: int | None = None, details: dict[str, object] | None = None
    ) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, " ".join(sentence.split())  # names of files may hold line ends
        self.headers = {} if again is None else {"Retry-After": str(again)}
        self.details = details or {}
