"""Layer 2: the canonical table of judgments, label scales, readers, writers, splits and simulated populations."""

from pluralign.judgments.reading import read
from pluralign.judgments.scales import BUILT_IN_SCALES, LabelScale
from pluralign.judgments.table import Judgments

__all__ = ["BUILT_IN_SCALES", "Judgments", "LabelScale", "read"]
