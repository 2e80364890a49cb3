"""Questions to the analyzer: texts as callers hold them, as the contract's messages."""

from dataclasses import dataclass

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.client.priority import PRIORITIES, Priority
from meshcast.contents import UNKNOWN_HOUR, Contents, content_message


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentQuestion:
    """A text that is to be judged; see `MeshClient.analyze_content`.

    >>> ContentQuestion(text="Good morning", hour_of_day=7).message().content.hour_of_day
    7

    Args:
        text: the text of the post, published or planned.
        title: title of what it links to; empty where it links to nothing.
        content_length: characters of the whole text where `text` is only its beginning; None takes those of `text`.
        has_media: whether it carries a photo or a video.
        hour_of_day: 0 to 23 on the channel's own clock; None means unknown.
        request_id: unique to the question. None: it follows from the composite question's.
    """

    text: str
    title: str = ""
    content_length: int | None = None
    has_media: bool = False
    hour_of_day: int | None = None
    request_id: str | None = None

    def message(self, *, version: int = 0, priority: Priority = "normal") -> pb.AnalyzeContentRequest:
        """The question as a message.

        Raises:
            InvalidInput: the text or the title holds a lone surrogate.
        """
        contents = Contents.of(
            [self.text],
            title=[self.title],
            content_length=None if self.content_length is None else [self.content_length],
            has_media=[self.has_media],
            hour_of_day=[UNKNOWN_HOUR if self.hour_of_day is None else self.hour_of_day],
        )
        return pb.AnalyzeContentRequest(
            request_id=self.request_id or "",
            content=content_message(contents, 0),
            model_version=version,
            priority=PRIORITIES[priority],
        )
