"""Runtime of model services: sessions over exported models, batching, versions that swap under load."""

from meshcast.runtime.batcher import HIGH, LOW, NORMAL, Batcher, Batching, RunFailed
from meshcast.runtime.candidates import Candidate, VersionPaths
from meshcast.runtime.choosing import Chooser
from meshcast.runtime.evidence import Evidence, Proof, Recorded
from meshcast.runtime.model import Model, Models, ModelState
from meshcast.runtime.ordered import answer_in_order
from meshcast.runtime.prediction_log import PredictionLog, Record, SqlitePredictionLog, StoredPrediction
from meshcast.runtime.publish import Published, dates_in_seconds, figures, publish, read_options
from meshcast.runtime.queueing import Answer, RunFacts
from meshcast.runtime.ragged import RowGroup, group_rows
from meshcast.runtime.receipts import plain_receipt, priority_class, receipt_of
from meshcast.runtime.repository import Repository, VersionPolicy
from meshcast.runtime.requests import add_violations, chunk_violations, name_violations, refusal
from meshcast.runtime.service import (
    ExampleCall,
    ModelSpec,
    ServiceContext,
    ServiceExample,
    ServiceSpec,
    find_example,
    find_service,
    find_services,
)
from meshcast.runtime.session import Backend, Session, SessionOptions
from meshcast.runtime.settings import RuntimeSettings
from meshcast.runtime.signature import Arrays, Signature, TensorSpec
from meshcast.runtime.tap import Tap, TapColumns, TapRecord
from meshcast.runtime.versions import Versions
from meshcast.runtime.write_behind import WriteBehind

__all__ = [
    # a model
    "Signature",
    "TensorSpec",
    "Arrays",
    "Model",
    "Models",
    "ModelState",
    "Versions",
    # artefacts
    "Repository",
    "VersionPolicy",
    "VersionPaths",
    "Evidence",
    "Proof",
    "Recorded",
    # back-ends
    "Backend",
    "Session",
    "SessionOptions",
    "Candidate",
    "Chooser",
    # batching
    "Batcher",
    "Batching",
    "RowGroup",
    "group_rows",
    "HIGH",
    "NORMAL",
    "LOW",
    "Answer",
    "RunFacts",
    "RunFailed",
    "Tap",
    "TapColumns",
    "TapRecord",
    # services
    "ServiceSpec",
    "ModelSpec",
    "ServiceContext",
    "ServiceExample",
    "ExampleCall",
    "find_example",
    "find_service",
    "find_services",
    "RuntimeSettings",
    "answer_in_order",
    "receipt_of",
    "plain_receipt",
    "priority_class",
    "name_violations",
    "chunk_violations",
    "add_violations",
    "refusal",
    # training
    "Published",
    "publish",
    "dates_in_seconds",
    "figures",
    "read_options",
    # predictions
    "WriteBehind",
    "Record",
    "StoredPrediction",
    "PredictionLog",
    "SqlitePredictionLog",
]
