"""Reporting: comparisons become reports, with the tests that need rows and the pictures that were asked for."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.rpc import Violation
from meshcast.runtime.requests import refusal
from meshcast.services.drift.alarms import Judgement
from meshcast.services.drift.bets import Bets
from meshcast.services.drift.blame import blame
from meshcast.services.drift.comparison import Comparison, Reference
from meshcast.services.drift.derived import DerivedReference, Encoded, encoded_columns
from meshcast.services.drift.effects import tests_of
from meshcast.services.drift.fields import shown
from meshcast.services.drift.joint import joint_drift
from meshcast.services.drift.plots import plot_features
from meshcast.services.drift.questions import PLOT_OF_WORST, DetectQuestion
from meshcast.services.drift.report import Report, make_report
from meshcast.services.drift.report_answers import add_plots, judgement_of, report_message
from meshcast.services.drift.tally import Tally

__all__ = ["AutoencoderView", "PLOTS_OF_WORST", "Reported", "Reporter", "judged", "require_plots"]

PLOTS_OF_WORST = 4
"""Features that `*` stands for in the list of plots, of the contract."""

BETS_KEPT = 4
"""Subjects whose bets are kept from report to report: making them takes a fifth of a report's time."""

_WHY_NO_ROWS = "the rows of a span of time are not held, only their counts: send rows, or look at the last window"


class Reported(NamedTuple):
    """A report as it is answered, and as it is kept."""

    answered: pb.DriftReport
    kept: pb.DriftReport


def judged(comparison: Comparison, report_id: str, made_us: int) -> Judgement:
    """What the report of a subject's window says; the same arguments give the same."""
    report = make_report(comparison, blame=np.zeros(len(comparison.reference.layout)))
    return judgement_of(report, report_message(report, comparison, report_id=report_id, made_us=made_us))


class AutoencoderView(NamedTuple):
    """What an autoencoder makes of a window, or of some of its rows, and of the reference's held-out rows."""

    reference: DerivedReference
    window: Encoded


class Reporter:
    """Makes reports of what callers compare; in one thread."""

    def __init__(self) -> None:
        self._bets: OrderedDict[int, tuple[Tally, Bets]] = OrderedDict()  # the tally too, so that its id stays its own

    def report(
        self,
        comparison: Comparison,
        question: DetectQuestion,
        report_id: str,
        made_us: int,
        autoencoder: AutoencoderView | None = None,
    ) -> Reported:
        """The report of a comparison.

        Args:
            comparison: what is compared; a window that is none of the subject's is judged by its own rows.
            question: what the caller wants of the report.
            report_id: of the report.
            made_us: the time, microseconds since 1970.
            autoencoder: its view of a window that stands alone; None where there is none.

        Raises:
            InvalidInput: a plot is wanted of what is no feature.
            Precondition: EXTRA_MISSING, plots are wanted and matplotlib is not installed.
        """
        require_plots(question.plots, comparison.reference.layout.names)
        report = self._report(comparison, question.chance)
        if autoencoder is not None:
            report = _with_autoencoder(report, autoencoder)
        kept = report_message(report, comparison, report_id=report_id, made_us=made_us)
        answered = kept
        if question.features_max or question.plots:
            answered = report_message(
                report, comparison, report_id=report_id, made_us=made_us, features_max=question.features_max
            )
            if question.plots:  # drawing imports matplotlib, which a process that draws nothing need not hold
                add_plots(answered, _plots(report, comparison, question.plots))
        return Reported(answered, kept)

    def _report(self, comparison: Comparison, chance: float) -> Report:
        reference, layout = comparison.reference, comparison.reference.layout
        if comparison.groups:
            return make_report(comparison, blame=np.zeros(len(layout)), false_alarm_chance=chance)
        joint = None
        if comparison.rows is not None:
            roles = {feature.name: feature.role for feature in layout.features}
            joint = joint_drift(reference.sample, comparison.rows, roles)
        return make_report(
            comparison,
            blame=blame(self._bets_of(reference), comparison.window.counts),
            joint=joint,
            false_alarm_chance=chance,
            why_no_joint=_WHY_NO_ROWS if joint is None else "",
        )

    def _bets_of(self, reference: Reference) -> Bets:
        """The bets against a reference; those of the newest few subjects are kept."""
        tally, layout = reference.tally, reference.layout
        if id(tally) in self._bets:
            self._bets.move_to_end(id(tally))
            return self._bets[id(tally)][1]
        bets = Bets.against(layout, tally)
        if reference.subject:
            self._bets[id(tally)] = tally, bets
            while len(self._bets) > BETS_KEPT:
                self._bets.popitem(last=False)
        return bets


def require_plots(plots: Sequence[str], names: Sequence[str]) -> None:
    """Checks that plots are wanted of features alone.

    Raises:
        InvalidInput: one is not.
    """
    known = {PLOT_OF_WORST, *names}
    found = [
        Violation(f"plots[{at}]", f"{shown(name)} is no feature of the reference")
        for at, name in enumerate(plots)
        if name not in known
    ]
    if found:
        raise refusal(found)


def _with_autoencoder(report: Report, view: AutoencoderView) -> Report:
    """The report of a window that stands alone, with the autoencoder's tests beside what decides.

    They compare with the reference's held-out rows, which the joint test has few of: those that were trained on have
    smaller errors.
    """
    layout = view.reference.layout
    window = layout.tally(encoded_columns(view.window))
    found = tests_of(layout, view.reference.tally, window)["kolmogorov_smirnov"]
    is_error = np.array([name == "autoencoder.error" for name in layout.names])
    tests = list(report.joint_tests)
    for at, test in enumerate(tests):
        if test.name in ("autoencoder_error", "autoencoder_code"):
            which = is_error if test.name == "autoencoder_error" else ~is_error
            p_value = min(1.0, int(which.sum()) * float(np.nan_to_num(found.p_value[which], nan=1.0).min()))
            statistic = float(np.nan_to_num(found.statistic[which]).max())
            tests[at] = replace(test, why="", statistic=statistic, p_value=p_value)
    return replace(report, joint_tests=tuple(tests))


def _plots(report: Report, comparison: Comparison, plots: Sequence[str]) -> Mapping[str, bytes]:
    """Pictures by the feature's name."""
    wanted = set(plots)
    if PLOT_OF_WORST in wanted:
        wanted |= {feature.feature.name for feature in report.features[:PLOTS_OF_WORST]}
    chosen = [feature for feature in report.features if feature.feature.name in wanted]
    layout = comparison.reference.layout
    pictures = plot_features(
        layout,
        comparison.reference.tally,
        comparison.window,
        [feature.position for feature in chosen],
        what={feature.position: feature.what for feature in chosen},
    )
    return {layout.names[position]: png for position, png in pictures.items()}
