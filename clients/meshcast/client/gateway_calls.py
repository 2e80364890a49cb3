"""Calls to the gateway: questions to several services at once, and the state of the mesh."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import aclosing

from meshcast.api.analyzer.v1 import analyzer_pb2
from meshcast.api.gateway.v1 import gateway_pb2
from meshcast.client.answers import ComprehensivePart, EngagementPrediction
from meshcast.client.calls import STREAM_TIMEOUT_S, Calls, answer_to, answers_to, each
from meshcast.client.content_questions import ContentLike, content_of
from meshcast.client.drift_questions import check_subject
from meshcast.client.forecasts import Forecast
from meshcast.client.judgements import ContentJudgement
from meshcast.client.priority import PRIORITIES, Priority
from meshcast.client.questions import (
    HistoryLike,
    Part,
    PlannedPost,
    Question,
    check_names,
    checked_plan,
    engagement_request,
)
from meshcast.client.series_questions import GrowthQuestion
from meshcast.rpc import sending


class GatewayCalls(Calls):
    """What a client asks the gateway."""

    async def predict_comprehensive(
        self,
        planned: PlannedPost | None = None,
        history: HistoryLike | None = None,
        *,
        parts: Sequence[Part] = (),
        request_id: str | None = None,
        channel: str = "",
        growth: GrowthQuestion | None = None,
        content: ContentLike | None = None,
        drift: str | None = None,
        drift_everything: bool = False,
        version: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[ComprehensivePart, None]:
        """Asks several services about a planned post and yields each part as it arrives; the summary comes last.

        A part whose service is slow, dead or not there carries its error; the others do not wait for it. The part
        engagement needs `planned` and `history`, the part growth `growth`, the channel's series, the part content
        `content`, the planned post's text, and the part drift `drift`, a subject of the drift service.

        Args:
            planned: the planned post.
            history: 20 to 100 settled posts of its channel.
            parts: what to ask for. Empty: the parts whose questions are given.
            request_id: each part's prediction id follows from it. None: one is made.
            channel: the channel's name, for the prediction log.
            growth: the question of the part growth.
            content: the question of the part content.
            drift: subject whose last closed window is judged; `predictor` tells whether rows still look like those that
                the model learnt from.
            drift_everything: judge all that the subject has observed since its reference was set instead; there is no
                window before as many rows as it has were observed.
            version: of the predictor's model; 0 is the one that serves.
            timeout_s: for the whole; None takes the client's.

        Raises:
            InvalidInput: a part that is asked for lacks its question, or nothing is asked.
            MeshError: the gateway itself failed.
        """
        question = Question(
            planned=planned,
            history=history,
            request_id=request_id,
            channel=channel,
            growth=growth,
            content=content,
            drift=drift,
            drift_everything=drift_everything,
            parts=parts,
        )
        request = self._comprehensive(question, version)
        call = self._open.gateway.PredictComprehensive(request, timeout=self._timeout(timeout_s))
        async with aclosing(answers_to(call)) as answers:
            async for answer in answers:
                yield ComprehensivePart.of(answer)

    async def predict_comprehensive_stream(
        self,
        questions: Iterable[Question] | AsyncIterable[Question],
        *,
        version: int = 0,
        timeout_s: float = STREAM_TIMEOUT_S,
    ) -> AsyncGenerator[ComprehensivePart, None]:
        """Asks several services about a stream of questions; parts of different questions may interleave.

        Each part carries its question's number, counted from 0. The gateway bounds how many are under way, and the
        questions are taken as fast as it takes them.

        Raises:
            MeshError: the gateway itself failed, or a question cannot be sent.
        """

        async def requests() -> AsyncIterator[gateway_pb2.PredictComprehensiveStreamRequest]:
            sequence = 0
            async for question in each(questions):
                inner = self._comprehensive(question, version)
                yield gateway_pb2.PredictComprehensiveStreamRequest(sequence=sequence, request=inner)
                sequence += 1

        call = self._open.gateway.PredictComprehensiveStream(timeout=timeout_s)
        async with aclosing(answers_to(call)) as answers, sending(call, requests()):
            async for answer in answers:
                yield ComprehensivePart.of(answer.response, answer.sequence)

    async def route_prediction(
        self,
        planned: PlannedPost,
        history: HistoryLike,
        *,
        request_id: str | None = None,
        channel: str = "",
        version: int = 0,
        priority: Priority = "normal",
        timeout_s: float | None = None,
    ) -> EngagementPrediction:
        """Asks the gateway for the one service that the question's kind names: for a planned post, the predictor.

        Raises:
            MeshError: as that service raised it.
        """
        prepared = self._histories.of(history)
        plan = checked_plan(planned, prepared, request_id, channel)
        engagement = engagement_request(
            plan,
            prepared,
            request_id=request_id or self._ids.next(),
            channel=channel,
            version=version,
            priority=priority,
        )
        request = gateway_pb2.RoutePredictionRequest(engagement=engagement)
        response = await answer_to(self._open.gateway.RoutePrediction(request, timeout=self._timeout(timeout_s)))
        return EngagementPrediction.of(response.engagement.prediction, response.engagement.receipt)

    async def route_growth(
        self,
        question: GrowthQuestion,
        *,
        version: int = 0,
        priority: Priority = "normal",
        timeout_s: float | None = None,
    ) -> Forecast:
        """Asks the gateway for the one service that the question's kind names: for a series, the forecaster.

        Raises:
            MeshError: as that service raised it.
        """
        growth = question.message(version=version, priority=priority)
        growth.request_id = growth.request_id or self._ids.next()
        request = gateway_pb2.RoutePredictionRequest(growth=growth)
        response = await answer_to(self._open.gateway.RoutePrediction(request, timeout=self._timeout(timeout_s)))
        return Forecast.of(response.growth.forecast, response.growth.receipt, tuple(response.growth.evidence))

    async def route_content(
        self,
        content: ContentLike,
        *,
        request_id: str | None = None,
        version: int = 0,
        priority: Priority = "normal",
        timeout_s: float | None = None,
    ) -> ContentJudgement:
        """Asks the gateway for the one service that the question's kind names: for a text, the analyzer.

        Raises:
            MeshError: as that service raised it.
        """
        question = analyzer_pb2.AnalyzeContentRequest(
            request_id=request_id or self._ids.next(),
            content=content_of(content),
            model_version=version,
            priority=PRIORITIES[priority],
        )
        request = gateway_pb2.RoutePredictionRequest(content=question)
        response = await answer_to(self._open.gateway.RoutePrediction(request, timeout=self._timeout(timeout_s)))
        return ContentJudgement.of(response.content.judgement, response.content.receipt)

    async def list_services(self, *, timeout_s: float | None = None) -> list[gateway_pb2.ServiceEntry]:
        """The services that the gateway routes to, by name."""
        call = self._open.gateway.ListServices(gateway_pb2.ListServicesRequest(), timeout=self._timeout(timeout_s))
        return list((await answer_to(call)).services)

    async def read_mesh_health(self, *, timeout_s: float | None = None) -> gateway_pb2.MeshHealth:
        """The state of every service and replica, as the gateway sees it."""
        call = self._open.gateway.ReadMeshHealth(gateway_pb2.ReadMeshHealthRequest(), timeout=self._timeout(timeout_s))
        return (await answer_to(call)).health

    async def watch_mesh(
        self, *, interval_s: float = 5.0, timeout_s: float = STREAM_TIMEOUT_S
    ) -> AsyncGenerator[gateway_pb2.MeshHealth, None]:
        """The state of the mesh now, after each change, and at least every `interval_s` seconds (0.2 to 60).

        Raises:
            NotReady: the gateway drains; watch again then.
            DeadlineExceeded: after `timeout_s` seconds.
        """
        request = gateway_pb2.WatchMeshRequest(interval_ms=round(interval_s * 1e3))
        call = self._open.gateway.WatchMesh(request, timeout=timeout_s)
        async with aclosing(answers_to(call)) as answers:
            async for answer in answers:
                yield answer.health

    def _comprehensive(self, question: Question, version: int) -> gateway_pb2.PredictComprehensiveRequest:
        wanted = question.wanted_parts()
        check_names(question.request_id, question.channel)
        request = gateway_pb2.PredictComprehensiveRequest(
            request_id=question.request_id or self._ids.next(),
            parts=[gateway_pb2.Part.Value(f"PART_{part.upper()}") for part in wanted],
        )
        if "engagement" in wanted:
            planned, history = question.plan_and_history()
            prepared = self._histories.of(history)
            plan = checked_plan(planned, prepared, question.request_id, question.channel)
            asked = engagement_request(
                plan, prepared, request_id="", channel=question.channel, version=version, priority="normal"
            )
            request.engagement.CopyFrom(asked)
        if "growth" in wanted and question.growth is not None:
            request.growth.CopyFrom(question.growth.message())
        if "content" in wanted and question.content is not None:
            request.content.content.CopyFrom(content_of(question.content))
        if "drift" in wanted and question.drift is not None:
            check_subject(question.drift)
            request.drift.subject = question.drift
            if question.drift_everything:
                request.drift.all.SetInParent()
        return request
