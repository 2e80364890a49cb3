"""The typed client of the mesh: `MeshClient` for asyncio, `SyncMeshClient` for plain code, over one code path."""

from meshcast.client.answers import (
    ComprehensivePart,
    EngagementChunk,
    EngagementPrediction,
    Interval,
    StoredPrediction,
    Validation,
)
from meshcast.client.calls import Progress
from meshcast.client.content_features import ContentFeatures, ContentLanguage, ContentSentiment
from meshcast.client.content_patterns import Claim, ClaimKind, ContentPatterns, Topic
from meshcast.client.content_questions import Content, ContentLike, ContentOutcome, ContentsLike, OutcomesLike
from meshcast.client.drift_answers import DriftAlarm, DriftSeverity, ObservedChunk, SeverityPart
from meshcast.client.drift_losses import LossVerdict, PerformanceDrift
from meshcast.client.drift_questions import DriftOptions, LossDetector, RowsLike
from meshcast.client.drift_references import Reference, ReferenceFeature
from meshcast.client.drift_reports import (
    QUANTILES,
    SEVERITIES,
    DriftEffects,
    DriftEvidence,
    DriftOnset,
    DriftReport,
    DriftWindow,
    FeatureDrift,
    FeatureFacts,
    JointTest,
    Severity,
)
from meshcast.client.forecasts import Band, Forecast, ForecastChunk, IntervalEvidence, RecordedActuals, StoredForecast
from meshcast.client.growth import (
    ChangeKind,
    ChangePoint,
    Direction,
    GrowthPatterns,
    GrowthPhase,
    Season,
    SeriesAnomaly,
    Trend,
)
from meshcast.client.into import StoredStream
from meshcast.client.judgements import ContentChunk, ContentJudgement, Span, ViralPotential
from meshcast.client.mesh import MeshClient
from meshcast.client.priority import Priority
from meshcast.client.questions import (
    Columns,
    History,
    HistoryLike,
    Part,
    PlannedPost,
    Post,
    PostRow,
    PostsLike,
    Question,
    post_table,
)
from meshcast.client.receipts import Receipt, ReceiptSummary
from meshcast.client.resume import ResumeToken
from meshcast.client.series_questions import GrowthQuestion, SeriesLike
from meshcast.client.stored_columns import content_columns, engagement_columns, forecast_columns, status_columns
from meshcast.client.sync import SyncMeshClient
from meshcast.client.text_answers import Classification, Embeddings, RankedDocument, Ranking, TextHead
from meshcast.rpc import prediction_id

__all__ = [
    "MeshClient",
    "SyncMeshClient",
    # questions
    "PlannedPost",
    "Post",
    "History",
    "Question",
    "Part",
    "Priority",
    "post_table",
    "HistoryLike",
    "PostsLike",
    "PostRow",
    "Columns",
    "Progress",
    "GrowthQuestion",
    "SeriesLike",
    "Content",
    "ContentLike",
    "ContentsLike",
    "ContentOutcome",
    "OutcomesLike",
    "RowsLike",
    "DriftOptions",
    "LossDetector",
    # answers
    "EngagementPrediction",
    "EngagementChunk",
    "Interval",
    "StoredPrediction",
    "Validation",
    "ComprehensivePart",
    "StoredStream",
    "ResumeToken",
    "status_columns",
    "engagement_columns",
    "forecast_columns",
    "content_columns",
    "Forecast",
    "ForecastChunk",
    "Band",
    "IntervalEvidence",
    "RecordedActuals",
    "StoredForecast",
    "GrowthPatterns",
    "Trend",
    "Direction",
    "Season",
    "ChangePoint",
    "ChangeKind",
    "GrowthPhase",
    "SeriesAnomaly",
    "ContentJudgement",
    "ContentChunk",
    "ViralPotential",
    "Span",
    "ContentFeatures",
    "ContentLanguage",
    "ContentSentiment",
    "ContentPatterns",
    "Topic",
    "Claim",
    "ClaimKind",
    "Embeddings",
    "Ranking",
    "RankedDocument",
    "Classification",
    "TextHead",
    "DriftReport",
    "DriftWindow",
    "DriftEvidence",
    "DriftOnset",
    "DriftEffects",
    "FeatureDrift",
    "FeatureFacts",
    "QUANTILES",
    "JointTest",
    "Severity",
    "SEVERITIES",
    "DriftAlarm",
    "DriftSeverity",
    "SeverityPart",
    "ObservedChunk",
    "Reference",
    "ReferenceFeature",
    "PerformanceDrift",
    "LossVerdict",
    "Receipt",
    "ReceiptSummary",
    "prediction_id",
]
