"""The last number of an answer."""

from __future__ import annotations

import re

from t2l.evaluation.metrics.interface import Metric, Probe
from t2l.registry import register

_NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")


@register("metric", "final_number")
class FinalNumber(Metric):
    """1 if the last number of the answer equals the reference's (`read_reference`); commas are dropped."""

    probes = (
        Probe("3 + 4 makes 7.", "7", 1),
        Probe("7, or 3", "7", 0),
        Probe("none", "7", 0),
        Probe("1,000", "1000", 1),
        Probe("so 9", "3 * 3 = 9 #### 9", 1),
    )

    def score(self, answer: str, reference: str) -> float:
        value = self.read_reference(reference)
        found = _NUMBER.findall(answer)
        return float(bool(found) and float(found[-1].replace(",", "").rstrip(".")) == value)

    def read_reference(self, reference: str) -> float:
        """The number a reference says: of one with `####` what follows it (GSM8K, Cobbe et al. 2021), without commas.

        Raises ValueError if that is not a number.
        """
        wanted = reference.rsplit("####", 1)[-1].strip().replace(",", "")
        try:
            return float(wanted)
        except ValueError:
            raise ValueError(f"metric final_number needs a number as reference, not {reference!r}") from None
