"""Evaluation: full-size frames against their labels, in constant memory."""

from smp_deploy.evaluation.boundary import BoundaryCounts, boundary, boundary_distance
from smp_deploy.evaluation.confusion import ConfusionMatrix, confusion_counts, ious
from smp_deploy.evaluation.evaluate import Evaluation, FrameScore, evaluation_of
from smp_deploy.evaluation.operation import evaluate
from smp_deploy.evaluation.pictures import judged, write_extremes
from smp_deploy.evaluation.predictors import NetworkPredictor, Predictor, labels_from_phases
from smp_deploy.evaluation.reports import document_from_evaluation, per_cent, table_from_evaluation, write_reports

__all__ = [
    "BoundaryCounts",
    "ConfusionMatrix",
    "Evaluation",
    "FrameScore",
    "NetworkPredictor",
    "Predictor",
    "boundary",
    "boundary_distance",
    "confusion_counts",
    "document_from_evaluation",
    "evaluate",
    "evaluation_of",
    "ious",
    "judged",
    "labels_from_phases",
    "per_cent",
    "table_from_evaluation",
    "write_extremes",
    "write_reports",
]
